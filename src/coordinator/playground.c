/* The page at "/".
 *
 * One file with its style and its script inside: it must work where nothing else can be reached, and a
 * server of models should not make its users' browsers load things from elsewhere. The browser is told
 * so: the Content-Security-Policy names the one style and the one script by their SHA-256, allows
 * requests to this server, and nothing else. The hashes are taken from the embedded file for each
 * answer (some 25 KB, far below a millisecond), so that they cannot be those of another version.
 *
 * The page uses the same endpoints as every client (/v1/models, /v1/chat/completions, /cluster); there
 * is nothing behind it. */
#include "coordinator/playground.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* Of the file that cmake/embed.cmake writes. */
extern const unsigned char playground_html[];
extern const size_t playground_html_bytes;

#define DIGEST_BYTES 32
#define BASE64_BYTES (DIGEST_BYTES / 3 * 4 + 4 + 1)

/* Base64 of the SHA-256 of what stands between two tags; both occur once. */
static bool hash_between(const char *open, const char *close, char out[BASE64_BYTES])
{
    const char *page = (const char *)playground_html, *page_end = page + playground_html_bytes;
    unsigned char digest[DIGEST_BYTES];
    const char *from = memmem(page, playground_html_bytes, open, strlen(open));

    if (from == NULL)
        return false;
    from += strlen(open);
    const char *to = memmem(from, (size_t)(page_end - from), close, strlen(close));
    if (to == NULL ||
        EVP_Q_digest(NULL, "SHA256", NULL, from, (size_t)(to - from), digest, NULL) != 1)
        return false;
    EVP_EncodeBlock((unsigned char *)out, digest, DIGEST_BYTES);
    return true;
}

void playground_reply(struct http_exchange *exchange)
{
    char policy[HTTP_HEADER_VALUE_MAX + 1], script[BASE64_BYTES], style[BASE64_BYTES];

    if (!hash_between("<script>", "</script>", script) ||
        !hash_between("<style>", "</style>", style)) {
        static const char text[] = "the page could not be prepared\n";
        http_reply(exchange, 500, "text/plain; charset=utf-8", text, sizeof(text) - 1, 0);
        return;
    }
    snprintf(policy, sizeof(policy),
             "default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; "
             "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
             "frame-ancestors 'none'",
             script, style);
    http_add_header(exchange, "Content-Security-Policy", policy);
    http_add_header(exchange, "X-Content-Type-Options", "nosniff");
    http_add_header(exchange, "Referrer-Policy", "no-referrer");
    http_add_header(exchange, "Cache-Control", "no-cache");
    http_reply(exchange, 200, "text/html; charset=utf-8", (const char *)playground_html,
               playground_html_bytes, 0);
}
