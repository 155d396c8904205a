/* UTF-8, decoded character by character. */
#ifndef SL_BASE_UTF8_H
#define SL_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Looks at the character that begins at text[0]; bytes >= 1.
 *   > 0   its length; *code_out is set
 *   0     all `bytes` bytes are the beginning of a character that is not complete
 *   < 0   no character; so many bytes make one U+FFFD (the "maximal subpart" of Unicode, as
 *         Rust's from_utf8_lossy has it) */
int sl_utf8_next(const char *text, size_t bytes, uint32_t *code_out);

#endif
