/* Characters.
 *
 * Owns what texts are made of (base/utf8.h decodes) and the Unicode properties outside of regular
 * expressions. Pure functions, any thread. ASCII runs are skipped eight bytes at a time where whole
 * texts are checked, which is where time goes.
 *
 * Properties come from utf8proc's categories, except White_Space, which is a short fixed list, and
 * what Unicode has added since (unicode_additions.c). */
#include "text/chars.h"

#include "base/utf8.h"
#include "text/unicode_additions.h"

#include <string.h>
#include <utf8proc.h>

bool text_utf8_valid(const char *text, size_t bytes, size_t *error_at_out)
{
    size_t at = 0;

    while (at < bytes) {
        uint64_t word;
        if (bytes - at >= sizeof(word)) {
            memcpy(&word, text + at, sizeof(word));
            if ((word & 0x8080808080808080ull) == 0) {
                at += sizeof(word);
                continue;
            }
        }
        uint32_t code;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        if (n <= 0) {
            if (error_at_out != NULL)
                *error_at_out = at;
            return false;
        }
        at += (size_t)n;
    }
    return true;
}

unsigned text_char_put(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0u | code >> 6);
        out[1] = (char)(0x80u | (code & 0x3fu));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0u | code >> 12);
        out[1] = (char)(0x80u | (code >> 6 & 0x3fu));
        out[2] = (char)(0x80u | (code & 0x3fu));
        return 3;
    }
    out[0] = (char)(0xf0u | code >> 18);
    out[1] = (char)(0x80u | (code >> 12 & 0x3fu));
    out[2] = (char)(0x80u | (code >> 6 & 0x3fu));
    out[3] = (char)(0x80u | (code & 0x3fu));
    return 4;
}

size_t text_char_before(const char *text, size_t at, uint32_t *code_out)
{
    size_t start = at - 1;

    while (start > 0 && ((uint8_t)text[start] & 0xc0u) == 0x80u)
        start--;
    if (sl_utf8_next(text + start, at - start, code_out) <= 0)
        *code_out = 0xfffd;
    return start;
}

bool text_char_is_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* "Lu", "Nd", …; utf8proc's table first, which leaves out what is newer than it is. */
static const char *category_of(uint32_t code)
{
    const char *name = utf8proc_category_string((utf8proc_int32_t)code);

    if (name[0] == 'C' && name[1] == 'n') {
        const char *newer = text_newer_category(code);
        return newer != NULL ? newer : name;
    }
    return name;
}

bool text_char_is_word(uint32_t code)
{
    if (code == 0x200c || code == 0x200d) /* joiners */
        return true;
    /* letters in circles and squares: symbols by category, alphabetic by property */
    if ((code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
        (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189))
        return true;
    const char *name = category_of(code);
    return name[0] == 'L' || name[0] == 'M' || (name[0] == 'N' && name[1] != 'o') ||
           (name[0] == 'P' && name[1] == 'c');
}

bool text_char_is_numeric(uint32_t code)
{
    if (code < 0x80)
        return code >= '0' && code <= '9';
    return category_of(code)[0] == 'N' ||
           text_ranges_have(text_newer_digits, text_n_newer_digits, code);
}

bool text_char_is_punctuation(uint32_t code)
{
    if (code < 0x80)
        return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') ||
               (code >= '[' && code <= '`') || (code >= '{' && code <= '~');
    bool differs = text_ranges_have(text_other_punctuation, text_n_other_punctuation, code);
    return (utf8proc_category_string((utf8proc_int32_t)code)[0] == 'P') != differs;
}

uint32_t text_char_lower(uint32_t code)
{
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + 32 : code;
    if (code == 0x130)
        return 'i';
    for (size_t i = 0; i < text_n_newer_lower && code >= text_newer_lower[0].upper; i++)
        if (text_newer_lower[i].upper == code)
            return text_newer_lower[i].lower;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
}

/* Bytes that are printable in Latin-1 stand for themselves; the other 68 follow from U+0100 on. */
static bool byte_is_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t text_byte_to_char(uint8_t byte)
{
    if (byte_is_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte <= 0xa0)
        return 0x121u + (byte - 0x7fu);
    return 0x143u; /* 0xad */
}

int text_char_to_byte(uint32_t code)
{
    if (code <= 0xff)
        return byte_is_itself(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100u);
    if (code <= 0x142)
        return (int)(code - 0x121u + 0x7fu);
    return code == 0x143u ? 0xad : -1;
}

bool text_ranges_have(const struct text_range *ranges, size_t n_ranges, uint32_t code)
{
    size_t low = 0, high = n_ranges;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_ranges && code >= ranges[low].first;
}

const char *text_newer_category(uint32_t code)
{
    size_t low = 0, high = text_n_newer_categories;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (code > text_newer_categories[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == text_n_newer_categories || code < text_newer_categories[low].first)
        return NULL;
    return text_newer_categories[low].category;
}
