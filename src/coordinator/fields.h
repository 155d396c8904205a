/* Readers of one member of a JSON body. Absent and null leave the default; a wrong type, or a value
 * outside its limits, is a 400 whose sentence names the field, the value and the limit, with `param`.
 * `field` is the member's name, and stands so in the error. */
#ifndef SL_COORDINATOR_FIELDS_H
#define SL_COORDINATOR_FIELDS_H

#include "coordinator/api.h"

#define FIELD_SHOW_BYTES 64

/* NULL when absent or null. */
const json_t *field_get(const json_t *object, const char *field);
/* A value as an error shows it: numbers and literals as they are, of the rest only the kind. */
const char *field_show(const json_t *value, char text[FIELD_SHOW_BYTES]);
/* "`field` is 7; want a string". */
sl_status field_wrong(struct api_error *error, const char *field, const json_t *value,
                      const char *want);

/* NUL is a character of prompts and of what messages say. Anywhere else it is refused: names and words
 * are compared, and kept, as C strings. */
sl_status field_check_nul(json_t *body, struct api_error *error) SL_MUST_USE;

/* Of a body with numbers that were rounded: what a template would write must have none. */
sl_status field_check_rounded(const json_t *body, struct api_error *error) SL_MUST_USE;
/* An integer of 64 bits, or a number without a fraction as 3.0, which vLLM takes as one too. */
bool field_is_int(const json_t *value, int64_t *number_out);

/* Each leaves *value_out alone when there is no such member. */
sl_status field_bool(const json_t *object, const char *field, bool *value_out,
                     struct api_error *error) SL_MUST_USE;
/* Borrowed from the object. */
sl_status field_text(const json_t *object, const char *field, const char **value_out,
                     struct api_error *error) SL_MUST_USE;
sl_status field_number(const json_t *object, const char *field, double min, double max,
                       double *value_out, struct api_error *error) SL_MUST_USE;
/* As field_is_int. found_out may be NULL. */
sl_status field_int(const json_t *object, const char *field, int64_t min, int64_t max,
                    int64_t *value_out, bool *found_out, struct api_error *error) SL_MUST_USE;
/* An item of a list that field_check_ids has found good. */
uint32_t field_id(const json_t *value);
/* Whether every item of a list is a token id, and there are at most API_TOKENS_MAX. */
sl_status field_check_ids(const json_t *ids, const char *field,
                          struct api_error *error) SL_MUST_USE;

#endif
