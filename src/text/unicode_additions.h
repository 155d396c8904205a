/* Where the Unicode tables of this machine's libraries differ from those of `tokenizers`. */
#ifndef SL_TEXT_UNICODE_ADDITIONS_H
#define SL_TEXT_UNICODE_ADDITIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_range {
    uint32_t first, last;
};
struct text_category_range {
    uint32_t first, last;
    char category[3]; /* "Lo" */
};

/* All tables ascend. */
extern const struct text_category_range text_newer_categories[]; /* since Unicode 14 */
extern const size_t text_n_newer_categories;
extern const struct text_range text_newer_digits[]; /* beyond the above, for Digits */
extern const size_t text_n_newer_digits;
/* Where Punctuation differs from category P of Unicode 14. */
extern const struct text_range text_other_punctuation[];
extern const size_t text_n_other_punctuation;
/* Marks and composites that are starters without decomposition to the normalizer of `tokenizers`. */
extern const struct text_range text_inert_starters[];
extern const size_t text_n_inert_starters;
/* The same for compatibility decompositions, on top of the above. */
extern const struct text_range text_inert_compatibility[];
extern const size_t text_n_inert_compatibility;
/* Lower case that utf8proc does not know. */
struct text_case_pair {
    uint32_t upper, lower;
};
extern const struct text_case_pair text_newer_lower[];
extern const size_t text_n_newer_lower;

bool text_ranges_have(const struct text_range *ranges, size_t n_ranges, uint32_t code);
/* NULL if the code point was assigned in Unicode 14 or is not assigned at all. */
const char *text_newer_category(uint32_t code);

#endif
