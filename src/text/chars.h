/* Characters: UTF-8 in and out, and the few Unicode properties that tokenizers ask about. */
#ifndef SL_TEXT_CHARS_H
#define SL_TEXT_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_REPLACEMENT       "\xef\xbf\xbd" /* U+FFFD */
#define TEXT_REPLACEMENT_BYTES 3u

/* Whether a text is UTF-8 throughout; if not, *error_at_out (may be NULL) is the first bad byte. */
bool text_utf8_valid(const char *text, size_t bytes, size_t *error_at_out);
/* Writes a code point (not a surrogate, at most 0x10FFFF) and returns its length, 1..4. */
unsigned text_char_put(uint32_t code, char out[4]);
/* Start of the character before text[at], in valid UTF-8; at >= 1. */
size_t text_char_before(const char *text, size_t at, uint32_t *code_out);

/* White_Space. */
bool text_char_is_space(uint32_t code);
/* What `\w` is in Unicode's regular expressions: letters, marks, digits, connectors. */
bool text_char_is_word(uint32_t code);
/* Number of any kind: Nd, Nl, No. */
bool text_char_is_numeric(uint32_t code);
/* Punctuation of any kind (P*), or an ASCII symbol. */
bool text_char_is_punctuation(uint32_t code);

/* Lower case; the first character of it, where U+0130 has two. */
uint32_t text_char_lower(uint32_t code);

/* The byte-level alphabet of GPT-2: every byte is written as one printable character. */
uint32_t text_byte_to_char(uint8_t byte);
/* -1 if the character stands for no byte. */
int text_char_to_byte(uint32_t code);

#endif
