/* Generated from src/host/exports.rs by scripts/build --update-header. */

#ifndef PRESENCE_FFI_H
#define PRESENCE_FFI_H

#include "core/str.h"
#include "core/parser/msg_parser.h"
#include "core/pvar.h"
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

// Script function pres_auth_status: the watcher's status, 5 for a polite
// block, or -1.
//
// # Safety
// `watcher` and `presentity` are valid.
int presence_auth_status(sip_msg_t *_msg, const str *watcher, const str *presentity);

// Script function pres_has_subscribers: 1 or -1.
//
// # Safety
// `uri` and `event` are valid.
int presence_has_subscribers(sip_msg_t *_msg, const str *uri, const str *event);

// Script function pres_update_watchers: 1 or -1.
//
// # Safety
// `uri` and `event` are valid.
int presence_update_watchers(sip_msg_t *_msg, const str *uri, const str *event);

// Script function pres_refresh_watchers with three parameters: 1 or -1.
//
// # Safety
// `uri` and `event` are valid.
int presence_refresh_watchers(sip_msg_t *_msg, const str *uri, const str *event, int kind);

// Script function pres_refresh_watchers with five parameters: 1 or -1.
//
// # Safety
// `uri`, `event`, `file` and `name` are valid.
int presence_refresh_watchers_file(sip_msg_t *_msg,
                                   const str *uri,
                                   const str *event,
                                   int kind,
                                   const str *file,
                                   const str *name);

// The name in `$subs(name)`: 0, or -1 if there is no such attribute.
//
// # Safety
// `spec` is the variable being made, `name` a valid `str`.
int presence_variable_subs_name(pv_spec_t *spec, str *name);

// The value of `$subs(name)`.
//
// # Safety
// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
int presence_variable_subs(sip_msg_t *msg, pv_param_t *param, pv_value_t *value);

// What is inside `$presence(name)`: 0, or -1 if there is no such thing.
//
// # Safety
// `spec` is the variable being made, `name` a valid `str`.
int presence_variable_presence_name(pv_spec_t *spec, str *name);

// The value of `$presence(name)`.
//
// # Safety
// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
int presence_variable_presence(sip_msg_t *msg, pv_param_t *param, pv_value_t *value);

// The variable in `$notify_reply(variable)`: 0, or -1 if it is none.
//
// # Safety
// `spec` is the variable being made, `name` a valid `str`.
int presence_variable_reply_name(pv_spec_t *spec, str *name);

// The value of `$notify_reply(variable)`.
//
// # Safety
// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
int presence_variable_reply(sip_msg_t *msg, pv_param_t *param, pv_value_t *value);

// Gives a sibling module our functions.
//
// # Safety
// `api` is NULL or points to a `presence_api_t`.
int presence_bind(presence_api_t *api);

#endif  /* PRESENCE_FFI_H */
