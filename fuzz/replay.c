/* A main() for fuzz targets that are built without libFuzzer: it hands every file named on the
 * command line, or below a directory named there, to LLVMFuzzerTestOneInput once. Without arguments
 * it plays $PODGATE_FUZZ_CORPORA/MODULE, where MODULE is this program's name without "fuzz_".
 * Exit status 0: all files were played; 1: a file could not be read; 2: there was no file at all,
 * because a corpus that was lost must not look like one that passed. */
#include "build_config.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct tally {
    unsigned long played;
    unsigned long failed;
};

static void play_file(struct tally *tally, const char *path)
{
    uint8_t *data = NULL;
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (file == NULL || fstat(fileno(file), &status) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        tally->failed++;
        goto out;
    }
    size_t size = (size_t)status.st_size;
    /* Exactly as long as the input, so that a read behind its end is one behind the allocation. */
    data = malloc(size > 0 ? size : 1);
    if (data == NULL || fread(data, 1, size, file) != size) {
        fprintf(stderr, "%s: could not be read\n", path);
        tally->failed++;
        goto out;
    }
    if (getenv("PODGATE_FUZZ_VERBOSE") != NULL) {
        fprintf(stderr, "%s\n", path);
    }
    LLVMFuzzerTestOneInput(data, size);
    tally->played++;
out:
    free(data);
    if (file != NULL) {
        fclose(file);
    }
}

static void play(struct tally *tally, const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        play_file(tally, path);
        return;
    }
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        tally->failed++;
        return;
    }
    for (int i = 0; i < count; i++) {
        char *child = NULL;
        if (entries[i]->d_name[0] != '.' && asprintf(&child, "%s/%s", path, entries[i]->d_name) >= 0) {
            play_file(tally, child);
            free(child);
        }
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    struct tally tally = {0};
    for (int i = 1; i < argc; i++) {
        play(&tally, argv[i]);
    }
    const char *corpora = getenv("PODGATE_FUZZ_CORPORA");
    if (argc < 2 && corpora != NULL) {
        const char *slash = strrchr(argv[0], '/');
        const char *name = slash != NULL ? slash + 1 : argv[0];
        char *path = NULL;
        if (strncmp(name, "fuzz_", 5) == 0 && asprintf(&path, "%s/%s", corpora, name + 5) >= 0) {
            play(&tally, path);
            free(path);
        }
    }
    printf("%lu inputs played, %lu could not be read\n", tally.played, tally.failed);
    if (tally.failed > 0) {
        return 1;
    }
    return tally.played > 0 ? 0 : 2;
}
