/* jansson with our rules: size cap, duplicate keys rejected, errors that say where. */
#ifndef SL_BASE_JSON_H
#define SL_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SL_JSON_DEPTH_MAX 128

/* Parses a whole document (an object or an array) of at most bytes_max bytes and SL_JSON_DEPTH_MAX
 * levels; SL_INVALID names `what`, line and column. The caller owns the value (json_decref). */
sl_status sl_json_parse(const char *what, const char *text, size_t bytes, size_t bytes_max,
                        json_t **value_out) SL_MUST_USE;
/* As sl_json_parse, for what clients send. Strings may hold NUL ("\u0000"): whoever reads one asks for its
 * length. A number that 64 bits or a double do not hold is no error: it becomes a real of about its value, never
 * within 64 bits and never beyond 1e308, which whoever has a limit refuses. *rounded_out: there is one. */
sl_status sl_json_parse_client(const char *what, const char *text, size_t bytes, size_t bytes_max,
                               json_t **value_out, bool *rounded_out) SL_MUST_USE;
/* Reads and parses a file; SL_NOT_FOUND, SL_INVALID. */
sl_status sl_json_load(const char *path, size_t bytes_max, json_t **value_out) SL_MUST_USE;

/* Fields of an object. Absent or null: the default, SL_OK. A wrong type or a value outside min..max
 * is SL_INVALID and names `what`, the field, the value and the limit. */
sl_status sl_json_uint(const json_t *object, const char *what, const char *field, uint64_t fallback,
                       uint64_t min, uint64_t max, uint64_t *value_out) SL_MUST_USE;
sl_status sl_json_number(const json_t *object, const char *what, const char *field, double fallback,
                         double min, double max, double *value_out) SL_MUST_USE;
sl_status sl_json_bool(const json_t *object, const char *what, const char *field, bool fallback,
                       bool *value_out) SL_MUST_USE;
/* Borrowed from the object. */
sl_status sl_json_text(const json_t *object, const char *what, const char *field,
                       const char *fallback, const char **value_out) SL_MUST_USE;

#endif
