/* Runs a fuzz target over the files of a directory, without libFuzzer: each as it is, and cut at every
 * eighth of its length. Fails when there is none, since then it shows nothing. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In a block of exactly its size, so that ASan sees a byte read behind it. */
static void run(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    if (copy == NULL)
        abort();
    memcpy(copy, bytes, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int run_file(const char *path)
{
    static uint8_t bytes[INPUT_BYTES_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    for (size_t eighths = 0; eighths <= 8; eighths++)
        run(bytes, size * eighths / 8);
    return 0;
}

int main(int argc, char **argv)
{
    int n = 0, failed = 0;
    DIR *directory = argc == 2 ? opendir(argv[1]) : NULL;
    for (struct dirent *e; directory != NULL && (e = readdir(directory)) != NULL;) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], e->d_name);
        failed += run_file(path);
        n++;
    }
    if (directory != NULL)
        closedir(directory);
    printf("%d inputs\n", n);
    return n == 0 || failed > 0;
}
