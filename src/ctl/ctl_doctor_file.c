#include "build_config.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sysexits.h>
#include <unistd.h>

#include "ctl/ctl_doctor.h"

enum {
    PATH_BYTES = 4096,
    BUSY_MS = 2000,
    SPACE_MINIMUM_MIB = 64,
    MIB_SHIFT = 20,
};

static const char *name_of(const struct ctl_doctor *doctor)
{
    return doctor->config->store.backend == CONFIG_STORE_REDIS ? "spool" : "database";
}

/* ---- rights and room ------------------------------------------------------------------------- */

/* The directory that holds the file, in `room`. */
static void directory_of(const char *path, char *room)
{
    const char *slash = strrchr(path, '/');

    snprintf(room, PATH_BYTES, "%.*s", (int)(slash && slash > path ? slash - path : 1), path);
}

static bool look_at_directory(struct ctl_doctor *doctor, const char *directory)
{
    struct stat status;

    if (stat(directory, &status) != 0) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_NOINPUT, name_of(doctor), "%s: %s", directory,
                        strerror(errno));
        return false;
    }
    if (!S_ISDIR(status.st_mode)) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_NOINPUT, name_of(doctor), "%s is no directory",
                        directory);
        return false;
    }
    if ((status.st_mode & S_IWOTH) != 0) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_NOPERM, name_of(doctor),
                        "%s: everybody can write to it (mode %04o)", directory,
                        (unsigned)(status.st_mode & 07777));
    }
    return true;
}

/* What may still come is what max_total leaves, and twice the log that SQLite writes. */
static void look_at_room(struct ctl_doctor *doctor, const char *directory, uint64_t used_bytes)
{
    uint64_t total = doctor->config->retention.max_total_bytes;
    uint64_t wanted_mib = total > used_bytes ? (total - used_bytes) >> MIB_SHIFT : 0;
    uint64_t free_mib;
    struct statvfs room;

    if (statvfs(directory, &room) != 0) {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, "room", "%s: %s", directory, strerror(errno));
        return;
    }
    free_mib = ((uint64_t)room.f_bavail * room.f_frsize) >> MIB_SHIFT;
    if (free_mib < SPACE_MINIMUM_MIB) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_TEMPFAIL, "room",
                        "%llu MiB are free on the disk of %s: submits are about to be refused",
                        (unsigned long long)free_mib, directory);
    } else if (free_mib < wanted_mib && doctor->config->store.backend != CONFIG_STORE_REDIS) {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, "room",
                        "%llu MiB are free on the disk of %s, and max_total lets the store grow by "
                        "%llu MiB more",
                        (unsigned long long)free_mib, directory, (unsigned long long)wanted_mib);
    } else {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, "room", "%llu MiB are free on the disk of %s",
                        (unsigned long long)free_mib, directory);
    }
}

static void look_at_mode(struct ctl_doctor *doctor, const char *path, const struct stat *status)
{
    if ((status->st_mode & 077) != 0) {
        ctl_doctor_tell(doctor, CTL_WARNING, EX_OK, name_of(doctor),
                        "%s: mode %04o lets others read or change results, 0600 is safe", path,
                        (unsigned)(status->st_mode & 07777));
    }
}

/* ---- what is in it --------------------------------------------------------------------------- */

/* The first column of the only row, on the heap; NULL when there is none. */
static char *ask(sqlite3 *database, const char *sql, int *error)
{
    sqlite3_stmt *statement = NULL;
    char *text = NULL;

    *error = sqlite3_prepare_v2(database, sql, -1, &statement, NULL);
    if (*error == SQLITE_OK) {
        *error = sqlite3_step(statement);
    }
    if (*error == SQLITE_ROW) {
        const char *column = (const char *)sqlite3_column_text(statement, 0);

        text = strdup(column ? column : "");
    }
    sqlite3_finalize(statement);
    return text;
}

static bool is_damage(int error)
{
    return error == SQLITE_CORRUPT || error == SQLITE_NOTADB || (error & 0xff) == SQLITE_CORRUPT;
}

static void look_inside(struct ctl_doctor *doctor, const char *path)
{
    sqlite3 *database = NULL;
    int error = sqlite3_open_v2(path, &database, SQLITE_OPEN_READONLY, NULL);
    char *text = NULL;

    if (error == SQLITE_OK) {
        sqlite3_busy_timeout(database, BUSY_MS);
        text = ask(database, "PRAGMA quick_check(1)", &error);
    }
    if (text && strcmp(text, "ok") == 0) {
        ctl_doctor_tell(doctor, CTL_GOOD, EX_OK, name_of(doctor), "%s is whole", path);
    } else if (text || is_damage(error)) {
        ctl_doctor_tell(doctor, CTL_BAD, EX_DATAERR, name_of(doctor),
                        "%s is damaged (%s): stop podgate, then \"podgatectl store salvage\"", path,
                        text ? text : sqlite3_errstr(error));
    } else {
        ctl_doctor_tell(doctor, CTL_BAD, EX_NOINPUT, name_of(doctor), "%s can't be read: %s", path,
                        database ? sqlite3_errmsg(database) : sqlite3_errstr(error));
    }
    free(text);
    sqlite3_close(database);
}

void ctl_doctor_file(struct ctl_doctor *doctor)
{
    const char *path = doctor->config->store.path.data;
    char directory[PATH_BYTES];
    struct stat status;

    directory_of(path, directory);
    if (!look_at_directory(doctor, directory)) {
        return;
    }
    if (stat(path, &status) != 0) {
        ctl_doctor_tell(doctor, errno == ENOENT ? CTL_GOOD : CTL_BAD, EX_NOINPUT, name_of(doctor),
                        "%s: %s", path,
                        errno == ENOENT ? "there is none yet, the first start makes it"
                                        : strerror(errno));
        look_at_room(doctor, directory, 0);
        return;
    }
    look_at_mode(doctor, path, &status);
    look_at_room(doctor, directory, (uint64_t)status.st_size);
    look_inside(doctor, path);
}
