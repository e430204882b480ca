/*
 * The metrics: those of one table, and all counters (service.h), in Prometheus' text format (net/exposition.h), with
 * the names lamella_snapshotter_WHAT[_UNIT][_total]. Labels have fixed values only, so their number is bounded.
 */
#ifndef LM_SNAPSHOTTER_METRICS_H
#define LM_SNAPSHOTTER_METRICS_H

#include "base/buf.h"
#include "lamella/snapshotter.pb-c.h"

/* Appends all of them. -ENOMEM, -EMSGSIZE: out has a part of them. */
int lm_report_print_metrics(const Lamella__Snapshotter__V1__StatusResponse *report, struct lm_buf *out) MUST_CHECK;

#endif
