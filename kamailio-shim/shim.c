/*
 * The part of the module that has to be C: the symbols that Kamailio's loader
 * looks up, made of Kamailio's macros, and these macros as functions. Nothing
 * is decided here; every entry point hands over to Rust.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "bind.h"
#include "presence_ffi.h"

/* ---- script functions ------------------------------------------------- */

/* The optional parameter's value; empty when it cannot be evaluated, which
 * Rust refuses with a 400, so that the client is not left without an answer. */
static str evaluate(struct sip_msg *msg, char *parameter)
{
	str value = {0, 0};

	if(get_str_fparam(&value, msg, (fparam_t *)parameter) < 0 || value.s == NULL) {
		value.s = "";
		value.len = 0;
	}
	return value;
}

static int handle_publish_0(struct sip_msg *msg, char *p1, char *p2)
{
	return presence_handle_publish(msg, NULL);
}

static int handle_publish_1(struct sip_msg *msg, char *sender, char *p2)
{
	str uri = evaluate(msg, sender);
	return presence_handle_publish(msg, &uri);
}

static int handle_subscribe_0(struct sip_msg *msg, char *p1, char *p2)
{
	return presence_handle_subscribe(msg, NULL);
}

static int handle_subscribe_1(struct sip_msg *msg, char *watcher, char *p2)
{
	str uri = evaluate(msg, watcher);
	return presence_handle_subscribe(msg, &uri);
}

static int kemi_handle_publish(struct sip_msg *msg)
{
	return presence_handle_publish(msg, NULL);
}

static int kemi_handle_subscribe(struct sip_msg *msg)
{
	return presence_handle_subscribe(msg, NULL);
}

static int auth_status(struct sip_msg *msg, char *p1, char *p2)
{
	str watcher = evaluate(msg, p1), presentity = evaluate(msg, p2);
	return presence_auth_status(msg, &watcher, &presentity);
}

static int has_subscribers(struct sip_msg *msg, char *p1, char *p2)
{
	str uri = evaluate(msg, p1), event = evaluate(msg, p2);
	return presence_has_subscribers(msg, &uri, &event);
}

static int update_watchers(struct sip_msg *msg, char *p1, char *p2)
{
	str uri = evaluate(msg, p1), event = evaluate(msg, p2);
	return presence_update_watchers(msg, &uri, &event);
}

static int refresh_watchers_3(struct sip_msg *msg, char *p1, char *p2, char *p3)
{
	str uri = evaluate(msg, p1), event = evaluate(msg, p2);
	int type = -1;
	return get_int_fparam(&type, msg, (fparam_t *)p3) < 0
				   ? -1
				   : presence_refresh_watchers(msg, &uri, &event, type);
}

static int refresh_watchers_5(
		struct sip_msg *msg, char *p1, char *p2, char *p3, char *p4, char *p5)
{
	str uri = evaluate(msg, p1), event = evaluate(msg, p2);
	str file = evaluate(msg, p4), name = evaluate(msg, p5);
	int type = -1;
	return get_int_fparam(&type, msg, (fparam_t *)p3) < 0
				   ? -1
				   : presence_refresh_watchers_file(
							 msg, &uri, &event, type, &file, &name);
}

/* The third parameter is a number, the others are text. */
static int fixup_refresh(void **parameter, int number)
{
	return number == 3 ? fixup_igp_all(parameter, number)
					   : fixup_spve_all(parameter, number);
}

static int fixup_free_refresh(void **parameter, int number)
{
	return number == 3 ? fixup_free_igp_all(parameter, number)
					   : fixup_free_spve_all(parameter, number);
}

/* Runs after mod_init, for each use in the script; without parameters once,
 * with number 0. */
static int fixup_request(void **parameter, int number)
{
	if(presence_script_usable() < 0) {
		return -1;
	}
	return number == 0 ? 0 : fixup_spve_null(parameter, number);
}

static int fixup_free_request(void **parameter, int number)
{
	return number == 0 ? 0 : fixup_free_spve_null(parameter, number);
}

/* clang-format off */
static cmd_export_t commands[] = {
	{"handle_publish", (cmd_function)handle_publish_0, 0,
		fixup_request, fixup_free_request, REQUEST_ROUTE},
	{"handle_publish", (cmd_function)handle_publish_1, 1,
		fixup_request, fixup_free_request, REQUEST_ROUTE},
	{"handle_subscribe", (cmd_function)handle_subscribe_0, 0,
		fixup_request, fixup_free_request, REQUEST_ROUTE},
	{"handle_subscribe", (cmd_function)handle_subscribe_1, 1,
		fixup_request, fixup_free_request, REQUEST_ROUTE},
	{"pres_auth_status", (cmd_function)auth_status, 2,
		fixup_spve_spve, fixup_free_spve_spve, REQUEST_ROUTE},
	{"pres_has_subscribers", (cmd_function)has_subscribers, 2,
		fixup_spve_spve, fixup_free_spve_spve, ANY_ROUTE},
	{"pres_update_watchers", (cmd_function)update_watchers, 2,
		fixup_spve_spve, fixup_free_spve_spve, ANY_ROUTE},
	{"pres_refresh_watchers", (cmd_function)refresh_watchers_3, 3,
		fixup_refresh, fixup_free_refresh, ANY_ROUTE},
	{"pres_refresh_watchers", (cmd_function)refresh_watchers_5, 5,
		fixup_refresh, fixup_free_refresh, ANY_ROUTE},
	/* Siblings look this up by its name and exactly one parameter. */
	{"bind_presence", (cmd_function)presence_bind, 1, 0, 0, 0},
	{0, 0, 0, 0, 0, 0}
};

#define KEMI(name, function, ...) \
	{str_init("presence"), str_init(name), SR_KEMIP_INT, function, {__VA_ARGS__}}
/* The same functions for scripts in Lua, Python, JavaScript ... */
static sr_kemi_t script_functions[] = {
	KEMI("handle_publish", kemi_handle_publish, 0),
	KEMI("handle_publish_uri", presence_handle_publish, SR_KEMIP_STR),
	KEMI("handle_subscribe", kemi_handle_subscribe, 0),
	KEMI("handle_subscribe_uri", presence_handle_subscribe, SR_KEMIP_STR),
	KEMI("pres_auth_status", presence_auth_status, SR_KEMIP_STR, SR_KEMIP_STR),
	KEMI("pres_has_subscribers", presence_has_subscribers, SR_KEMIP_STR, SR_KEMIP_STR),
	KEMI("pres_update_watchers", presence_update_watchers, SR_KEMIP_STR, SR_KEMIP_STR),
	KEMI("pres_refresh_watchers", presence_refresh_watchers,
		SR_KEMIP_STR, SR_KEMIP_STR, SR_KEMIP_INT),
	KEMI("pres_refresh_watchers_file", presence_refresh_watchers_file,
		SR_KEMIP_STR, SR_KEMIP_STR, SR_KEMIP_INT, SR_KEMIP_STR, SR_KEMIP_STR),
	{{0, 0}, {0, 0}, 0, NULL, {0}}
};

/* ---- pseudo-variables -------------------------------------------------- */

#define VARIABLE(name, function) \
	{{name, sizeof(name) - 1}, PVT_OTHER, function, 0, function##_name, 0, 0, 0}
static pv_export_t variables[] = {
	VARIABLE("subs", presence_variable_subs),
	VARIABLE("notify_reply", presence_variable_reply),
	VARIABLE("presence", presence_variable_presence),
	{{0, 0}, 0, 0, 0, 0, 0, 0, 0}
};
/* clang-format on */

/* ---- module parameters ------------------------------------------------ */

/* The core does not tell a setter which parameter it is called for, so each
 * one has its own; all hand over to Rust. The build makes the list,
 * PARAMETERS(NUMBER, TEXT), from src/config/parameters.rs. */
#include "parameters.h"

static int set_parameter(const char *name, modparam_t type, void *value)
{
	if(PARAM_TYPE_MASK(type) == PARAM_INT) {
		return presence_set_parameter(name, NULL, (long)value);
	}
	return presence_set_parameter(name, (str *)value, 0);
}

#define SETTER(name)                                      \
	static int set_##name(modparam_t type, void *value) \
	{                                                     \
		return set_parameter(#name, type, value);         \
	}
PARAMETERS(SETTER, SETTER)
#undef SETTER

/* A number may be quoted: each has a row for either spelling. */
#define TEXT_ROW(name) {#name, PARAM_STR | PARAM_USE_FUNC, (void *)set_##name},
#define NUMBER_ROW(name)                                  \
	{#name, PARAM_INT | PARAM_USE_FUNC, (void *)set_##name}, \
	TEXT_ROW(name)
static param_export_t parameters[] = {
	PARAMETERS(NUMBER_ROW, TEXT_ROW)
	{0, 0, 0}
};
#undef TEXT_ROW
#undef NUMBER_ROW

/* ---- what the loader looks up ----------------------------------------- */

#pragma GCC visibility push(default)

MODULE_VERSION

struct module_exports exports = {
	"presence",
	DEFAULT_DLFLAGS,
	commands,
	parameters,
	0, /* RPC: registered by mod_init */
	variables,
	0, /* replies */
	presence_mod_init,
	presence_child_init,
	presence_destroy
};

int mod_register(char *path, int *dlflags, void *p1, void *p2)
{
	sr_kemi_modules_add(script_functions);
	return presence_load();
}

#pragma GCC visibility pop

/* ---- macros and inline functions -------------------------------------- */

int kshim_log_enabled(int level)
{
	return get_debug_level(MOD_NAME, sizeof(MOD_NAME) - 1) >= level;
}

void kshim_log(int level, const char *place, const char *text, int length)
{
	LOG_FX(DEFAULT_FACILITY, level, NULL, place, NULL, "%.*s\n", length, text);
}

void kshim_log_facility(
		int facility, int level, const char *place, const char *text, int length)
{
	LOG_FX(facility, level, NULL, place, NULL, "%.*s\n", length, text);
}

/* No level of the log: the process has none of its own. */
#define KSHIM_CONFIGURED -1000

int kshim_hush(void)
{
	int level = get_debug_level(NULL, 0);
	int configured = cfg_get(core, core_cfg, debug);
	set_local_debug_level(L_CRIT);
	return level == configured ? KSHIM_CONFIGURED : level;
}

void kshim_unhush(int before)
{
	if(before == KSHIM_CONFIGURED)
		reset_local_debug_level();
	else
		set_local_debug_level(before);
}

void *kshim_shm_malloc(size_t size)
{
	return shm_malloc(size);
}

void kshim_shm_free(void *block)
{
	shm_free(block);
}

void *kshim_pkg_malloc(size_t size)
{
	return pkg_malloc(size);
}

void kshim_pkg_free(void *block)
{
	pkg_free(block);
}

unsigned long kshim_pkg_available(void)
{
	return pkg_available();
}

unsigned long kshim_shm_available(void)
{
	return shm_available();
}

int kshim_connected(str *host, int port)
{
	struct ip_addr *found;
	struct ip_addr address;
	struct tcp_connection *connection;

	if(tcp_disable) {
		return 0;
	}
	found = str2ip(host);
	if(found == NULL) {
		found = str2ip6(host);
	}
	if(found == NULL) {
		return -1;
	}
	/* The parsers return a buffer of their own. */
	address = *found;
	connection = tcpconn_get(0, &address, port, NULL, 0);
	if(connection == NULL) {
		return 0;
	}
	tcpconn_put(connection);
	return 1;
}

int kshim_statistic(char *name, long (*value)(void))
{
	stat_function function = value;

	return register_stat("presence", name, (stat_var **)function, STAT_IS_FUNC);
}

int kshim_pkg_walks(void)
{
	return _pkg_root.mname != NULL && strcmp(_pkg_root.mname, "q_malloc") == 0;
}

int kshim_shm_walks(void)
{
	return _shm_root.mname != NULL && strcmp(_shm_root.mname, "q_malloc") == 0;
}

void kshim_join_no_more(void)
{
	if(core_cfg != NULL)
		((struct cfg_group_core *)core_cfg)->mem_join = 0;
}

void kshim_lock(gen_lock_t *lock)
{
	lock_get(lock);
}

int kshim_try_lock(gen_lock_t *lock)
{
	return lock_try(lock);
}

void kshim_unlock(gen_lock_t *lock)
{
	lock_release(lock);
}

int kshim_load_sl(sl_api_t *api)
{
	return sl_load_api(api);
}

int kshim_load_tm(struct tm_binds *api)
{
	return load_tm_api(api);
}

int kshim_parse_headers(sip_msg_t *msg)
{
	return parse_headers(msg, HDR_EOH_F, 0);
}

void kshim_cfg_update(void)
{
	cfg_update();
}

int kshim_set_route_type(int type)
{
	int before = get_route_type();

	set_route_type(type);
	return before;
}

unsigned int kshim_hash_case(str *one, str *other)
{
	return core_case_hash(one, other, 0);
}

void kshim_never_reply(struct sip_msg *msg)
{
	msg->msg_flags |= FL_MSG_NOREPLY;
}

str kshim_transaction_cseq(struct cell *transaction)
{
#if VERSIONVAL >= 5008000
	return transaction->cseq_hdr_n;
#else
	return transaction->cseq_n;
#endif
}

/* $xavp(root=>child), if it is a number. */
int kshim_xavp_number(str *root, str *child, long *number)
{
	sr_xavp_t *found = xavp_get_child_with_ival(root, child);

	if(found == NULL) {
		return 0;
	}
#if VERSIONVAL >= 5007000
	*number = found->val.v.l;
#else
	*number = found->val.v.i;
#endif
	return 1;
}

int kshim_set_avp(int id, str *text)
{
	int_str name = {0}, value = {0};

	name.n = id;
	value.s = *text;
	return add_avp(AVP_VAL_STR, name, value);
}
