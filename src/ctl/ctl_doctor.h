/* What the files of `podgatectl doctor` share. Each looks at one part, tells what it found, and may
 * block for some seconds. */
#ifndef PODGATE_CTL_CTL_DOCTOR_H
#define PODGATE_CTL_CTL_DOCTOR_H

#include <jansson.h>

#include "ctl/ctl.h"
#include "model/config.h"

enum ctl_finding { CTL_GOOD, CTL_WARNING, CTL_BAD };

struct ctl_doctor {
    const struct config *config;
    bool json;
    json_t *findings;
    int status; /* of the first bad finding; EX_OK until there is one */
};

/* Tells one finding; `status` is what podgatectl ends with if it is a bad one. */
void ctl_doctor_tell(struct ctl_doctor *doctor, enum ctl_finding finding, int status,
                     const char *what, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The database of the embedded store, or the spool: rights, room, integrity, schema. */
void ctl_doctor_file(struct ctl_doctor *doctor);

/* Whether the upstream answers. */
void ctl_doctor_upstream(struct ctl_doctor *doctor);

#endif
