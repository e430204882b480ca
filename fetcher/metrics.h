/*
 * The metrics: one table says name, type, help, labels and where the value stands in the status (status.h), and all
 * of them are printed from it in Prometheus' text format, version 0.0.4.
 *
 * Names are lamella_fetcher_WHAT[_UNIT][_total]; units are bytes and seconds. Labels name only what the settings name
 * (repositories, servers, proxies) or what is fixed here (kinds, states), so their number is bounded. Counters begin
 * anew with every worker, whose start is lamella_fetcher_start_time_seconds.
 */
#ifndef LM_FETCHER_METRICS_H
#define LM_FETCHER_METRICS_H

#include "base/buf.h"
#include "lamella/fetcher.pb-c.h"

/* Appends all of them. -ENOMEM, -EMSGSIZE: out has a part of them. */
int lm_metrics_print(const Lamella__Fetcher__V1__StatusResponse *status, struct lm_buf *out) MUST_CHECK;

#endif
