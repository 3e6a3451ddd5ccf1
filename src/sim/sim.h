/* The parts of one running podgate-sim, as they see each other. One thread runs everything. */
#ifndef SIM_H
#define SIM_H

#include <stdint.h>
#include <sys/queue.h>

#include "sim/sim_clock.h"
#include "sim/sim_options.h"

struct event;
struct event_base;
struct sim_faults;
struct sim_http;
struct sim_queue;
struct sim_record;

struct sim {
    struct sim_options options;
    struct sim_clock clock;
    struct event_base *base;
    struct sim_http *http;    /* callers and workers */
    struct sim_http *control; /* --control; NULL without */
    struct sim_record *record;
    struct sim_faults *faults;
    struct sim_queue *queue;
    TAILQ_HEAD(delivery_list, delivery) deliveries; /* sim_webhook.c */
    struct event *front_timer;                      /* sim_control.c: front=down */
    int64_t front_down_ms; /* still to come; -1: it is down, up again is next */
};

#endif
