/* Generated from src/host/exports.rs by scripts/build --update-header. */

#ifndef PRESENCE_FFI_H
#define PRESENCE_FFI_H

#include "core/str.h"
#include "core/parser/msg_parser.h"
#include "modules/presence/bind_presence.h"

// The module was loaded; nothing is configured yet.
int presence_load(void);

// A parameter from the configuration file: text, or a number if `content` is
// NULL. 0, or -1 to refuse it.
//
// # Safety
// `name` is a terminated string; `content` is NULL or points to a valid `str`.
int presence_set_parameter(const char *name, const str *content, long number);

// All parameters are set: prepares everything that the processes share.
int presence_mod_init(void);

// A process was forked.
int presence_child_init(int rank);

// The server stops.
void presence_destroy(void);

// Whether the script may use our functions: 0, or -1 to refuse the script.
int presence_script_usable(void);

// Script function handle_publish; `sender` is NULL without a parameter.
//
// # Safety
// `msg` is the request being routed; `sender` is NULL or a valid `str`.
int presence_handle_publish(sip_msg_t *msg, const str *sender);

// Script function handle_subscribe; `watcher` is NULL without a parameter.
//
// # Safety
// `msg` is the request being routed; `watcher` is NULL or a valid `str`.
int presence_handle_subscribe(sip_msg_t *msg, const str *watcher);

// Gives a sibling module our functions.
//
// # Safety
// `api` is NULL or points to a `presence_api_t`.
int presence_bind(presence_api_t *api);

#endif  /* PRESENCE_FFI_H */
