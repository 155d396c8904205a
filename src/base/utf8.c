/* The decoder is a table-free one that follows Table 3-7 of the Unicode standard: the first byte gives
 * length and the range of the second, all others are 80..BF. Pure; any thread. */
#include "base/utf8.h"

int sl_utf8_next(const char *text, size_t bytes, uint32_t *code_out)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low = 0x80, high = 0xbf;
    int n;
    uint32_t code;
    if (p[0] < 0x80) {
        *code_out = p[0];
        return 1;
    }
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;
        code = p[0] & 0x1fu;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 3;
        code = p[0] & 0x0fu;
        if (p[0] == 0xe0)
            low = 0xa0; /* shorter forms exist below */
        if (p[0] == 0xed)
            high = 0x9f; /* surrogates above */
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        code = p[0] & 0x07u;
        if (p[0] == 0xf0)
            low = 0x90;
        if (p[0] == 0xf4)
            high = 0x8f; /* beyond U+10FFFF above */
    } else {
        return -1;
    }
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= bytes)
            return 0;
        if (p[i] < low || p[i] > high)
            return -i;
        code = code << 6 | (p[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    *code_out = code;
    return n;
}
