/*
 * Test module: calls every member of presence_api_t as sibling modules do, and
 * writes what it sees to the log, for tests/kamailio/tests/api.rs to compare.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "core/ver_defs.h"
#include "core/sr_module.h"
#include "core/mod_fix.h"
#include "core/dprint.h"
#include "core/mem/mem.h"
#include "core/mem/shm_mem.h"
#include "core/parser/parse_event.h"
#include "core/parser/parse_param.h"
#include "core/parser/msg_parser.h"
#include "modules/presence/bind_presence.h"
#include "modules/presence/hash.h"

/* db_flag of subs_t */
#define UPDATEDB_FLAG 2
#define INSERTDB_FLAG 4

MODULE_VERSION

static presence_api_t pres;
static int expired;
/* so many more events are added at start */
static int more_events;

#define SAY(format, ...) LM_NOTICE("API-CHECK " format "\n", ##__VA_ARGS__)
#define TEXT(t) (t).len, ((t).s ? (t).s : "")

static str text(char *s)
{
	str result = {s, s ? (int)strlen(s) : 0};
	return result;
}

static int on_expired(subs_t *s)
{
	expired++;
	return 0;
}

/* Nothing is in the database of this one. */
static int no_insert(const db1_con_t *h, const db_key_t *k, const db_val_t *v, const int n)
{
	SAY("insert key=%.*s", TEXT(v[1].val.str_val));
	return 0;
}
static int no_update(const db1_con_t *h, const db_key_t *k, const db_op_t *o, const db_val_t *v,
		const db_key_t *uk, const db_val_t *uv, const int n, const int un)
{
	SAY("update key=%.*s", TEXT(v[1].val.str_val));
	return 0;
}
static int no_delete(const db1_con_t *h, const db_key_t *k, const db_op_t *o, const db_val_t *v,
		const int n)
{
	if(n == 1)
		SAY("delete where %.*s %s", TEXT((*k[0])), o ? o[0] : "=");
	return 0;
}
static int no_query(const db1_con_t *h, const db_key_t *k, const db_op_t *op, const db_val_t *v,
		const db_key_t *c, const int n, const int nc, const db_key_t o, db1_res_t **r)
{
	*r = NULL;
	return 0;
}

static void fill(subs_t *s, pres_ev_t *event, char *callid)
{
	memset(s, 0, sizeof(*s));
	s->pres_uri = text("sip:alice@example.test");
	s->to_user = text("alice");
	s->to_domain = text("example.test");
	s->from_user = text("bob");
	s->from_domain = text("example.test");
	s->watcher_user = text("bob");
	s->watcher_domain = text("example.test");
	s->event = event;
	s->event_id = text("7");
	s->to_tag = text("tt");
	s->from_tag = text("ft");
	s->callid = text(callid);
	s->sockinfo_str = text("udp:127.0.0.1:5060");
	s->contact = text("sip:bob@127.0.0.1:9;ob");
	s->local_contact = text("sip:127.0.0.1:5060");
	s->record_route = text("<sip:proxy;lr>");
	s->reason = text("");
	s->user_agent = text("phone");
	s->expires = 600;
	s->remote_cseq = 5;
	s->local_cseq = 1;
	s->version = 1;
	s->status = ACTIVE_STATUS;
	s->flags = 3;
	s->db_flag = INSERTDB_FLAG;
}

/* The table for siblings: insert, find, change, copy, write, expire, free. */
static void check_table(void)
{
	str event = text("presence");
	pres_ev_t *ev = pres.contains_event(&event, NULL);
	shtable_t table = pres.new_shtable(4);
	subs_t one, other, *node, *copy;
	db_func_t functions;
	db1_con_t connection;
	int n;

	fill(&one, ev, "call-1");
	n = pres.insert_shtable(table, 2, &one);
	lock_get(&table[2].lock);
	node = pres.search_shtable(table, one.callid, one.to_tag, one.from_tag, 2);
	SAY("table insert=%d found=%d first=%d expires=%d db_flag=%d flags=%u id=%.*s", n,
			node != NULL, node == table[2].entries->next,
			node && node->expires > (unsigned int)time(NULL) + 590, node ? node->db_flag : -1,
			node ? node->flags : 0, TEXT(node->event_id));
	lock_release(&table[2].lock);

	fill(&other, ev, "call-1");
	other.contact = text("sip:bob@127.0.0.1:9");
	other.expires = 300;
	other.remote_cseq = 6;
	n = pres.update_shtable(table, 2, &other, REMOTE_TYPE);
	SAY("table remote=%d local_cseq=%u db_flag=%d", n, other.local_cseq, other.db_flag);
	n = pres.update_shtable(table, 2, &other, LOCAL_TYPE);
	SAY("table local=%d local_cseq=%u version=%d", n, other.local_cseq, other.version);
	/* Both, for the stock module deletes by the To tag alone. */
	other.callid = text("unknown");
	other.to_tag = text("unknown");
	n = pres.update_shtable(table, 2, &other, LOCAL_TYPE);
	SAY("table unknown=%d delete=%d", n, pres.delete_shtable(table, 2, &other));

	copy = pres.mem_copy_subs(&one, PKG_MEM_TYPE);
	SAY("copy pkg callid=%.*s route=%.*s", TEXT(copy->callid), TEXT(copy->record_route));
	pkg_free(copy);

	memset(&functions, 0, sizeof(functions));
	memset(&connection, 0, sizeof(connection));
	functions.insert = no_insert;
	functions.update = no_update;
	functions.delete = no_delete;
	functions.query = no_query;
	fill(&other, ev, "call-2");
	other.db_flag = UPDATEDB_FLAG;
	pres.insert_shtable(table, 3, &other);
	fill(&other, ev, "call-3");
	other.db_flag = INSERTDB_FLAG;
	pres.insert_shtable(table, 3, &other);
	lock_get(&table[3].lock);
	table[3].entries->next->expires = time(NULL) - 100;
	lock_release(&table[3].lock);
	expired = 0;
	pres.update_db_subs_timer(&connection, &functions, table, 4, 0, on_expired);
	SAY("timer expired=%d left=%d", expired, table[3].entries->next != NULL
			&& table[3].entries->next->next == NULL);
	lock_get(&table[2].lock);
	node = table[2].entries->next;
	SAY("timer db_flag=%d", node->db_flag);
	lock_release(&table[2].lock);

	n = pres.delete_shtable(table, 2, &one);
	SAY("table deleted=%d again=%d", n, pres.delete_shtable(table, 2, &one));
	pres.destroy_shtable(table, 4);
}

static void check_events(void)
{
	str name = text("presence"), strange = text("weather"), *list = NULL;
	event_t parsed;
	pres_ev_t *ev, *same;
	int n;

	memset(&parsed, 0, sizeof(parsed));
	ev = pres.contains_event(&name, &parsed);
	same = pres.search_event(&parsed);
	SAY("event found=%d same=%d type=%d", ev != NULL, ev == same, ev ? ev->type : -1);
	if(parsed.params.list)
		free_params(parsed.params.list);
	SAY("event strange=%d", pres.contains_event(&strange, NULL) != NULL);
	n = pres.get_event_list(&list);
	if(more_events)
		SAY("event names=%.*s", list ? list->len : 0, list ? list->s : "");
	SAY("event list=%d has=%d", n, list != NULL && strstr(list->s, "check-event") != NULL);
	if(list) {
		pkg_free(list->s);
		pkg_free(list);
	}
}

/* Published state, rules and refreshes. */
static void check_state(void)
{
	str realm = text("example.test"), user = text("robot"), tag = text("own-tag"), sender = {0, 0};
	str event = text("check-event"), uri = text("sip:robot@example.test");
	str body = text("one"), newer = text("two"), none = {0, 0}, bad = text("nobody");
	str stale = text("a.1.2.3.4");
	str presence = text("presence"), alice = text("sip:alice@example.test");
	str bob = text("sip:bob@example.test");
	pres_ev_t *ev = pres.contains_event(&event, NULL);
	pres_ev_t *pr = pres.contains_event(&presence, NULL);
	pres_ev_t stub;
	str *document;
	char *sphere;
	int n;

	n = pres.update_presentity(&event, &realm, &user, &tag, &sender, &body, 600, 1, 0);
	document = pres.get_presentity(uri, ev, NULL, NULL);
	SAY("publish new=%d state=%.*s", n, document ? document->len : 0, document ? document->s : "");
	if(document)
		pres.free_presentity(document, ev);
	n = pres.update_presentity(&event, &realm, &user, &stale, &sender, &newer, 600, 0, 0);
	SAY("publish unknown tag=%d", n);
	SAY("publish event=%d",
			pres.update_presentity(&bad, &realm, &user, &tag, &sender, &newer, 600, 1, 0));
	document = pres.get_presentity(alice, pr, NULL, NULL);
	SAY("state pidf=%d", document != NULL && document->len > 0);
	if(document)
		pres.free_presentity(document, pr);
	document = pres.get_presentity(bob, pr, NULL, NULL);
	SAY("state none=%d", document == NULL);
	if(document)
		pres.free_presentity(document, pr);
	sphere = pres.get_sphere(&alice);
	SAY("sphere=%s", sphere ? sphere : "(none)");
	if(sphere)
		pkg_free(sphere);
	SAY("auth bob=%d", pres.pres_auth_status(NULL, bob, alice));
	memset(&stub, 0, sizeof(stub));
	stub.name = presence;
	SAY("update_watchers=%d", pres.update_watchers_status(&alice, &stub, &none));
	n = pres.pres_refresh_watchers(&alice, &presence, 1);
	SAY("refresh state=%d event=%d", n, pres.pres_refresh_watchers(&alice, &bad, 1));
	n = pres.update_presentity(&event, &realm, &user, &tag, &sender, &none, 0, 0, 0);
	document = pres.get_presentity(uri, ev, NULL, NULL);
	SAY("publish remove=%d state=%d", n, document != NULL);
	if(document)
		pres.free_presentity(document, ev);
}

static void check_extract(struct sip_msg *msg)
{
	str event = text("presence"), contact = {0, 0}, user = text("wu"), domain = text("wd");
	subs_t s;
	int generated = -1, n;

	memset(&s, 0, sizeof(s));
	s.event = pres.contains_event(&event, NULL);
	n = pres.extract_sdialog_info(&s, msg, 3600, &generated, contact, user, domain);
	SAY("extract=%d generated=%d expires=%u to=%.*s@%.*s from=%.*s@%.*s watcher=%.*s@%.*s", n,
			generated, s.expires, TEXT(s.to_user), TEXT(s.to_domain), TEXT(s.from_user),
			TEXT(s.from_domain), TEXT(s.watcher_user), TEXT(s.watcher_domain));
	SAY("extract tags=%d,%d cseq=%u version=%d pres_uri=%d socket=%d local=%d", s.to_tag.len > 0,
			s.from_tag.len > 0, s.remote_cseq, s.version, s.pres_uri.s != NULL,
			s.sockinfo_str.len > 0, s.local_contact.len > 0);
	SAY("extract contact=%.*s route=%.*s agent=%.*s", TEXT(s.contact), TEXT(s.record_route),
			TEXT(s.user_agent));
	if(s.record_route.s)
		pkg_free(s.record_route.s);
	if(s.pres_uri.s)
		pkg_free(s.pres_uri.s);
	if(s.local_contact.s)
		pkg_free(s.local_contact.s);
}

static int api_check(struct sip_msg *msg, char *what, char *unused)
{
	str name = {0, 0};
	unsigned long pkg, shm;
	int n = 1;

	if(get_str_fparam(&name, msg, (fparam_t *)what) < 0)
		return -1;
	pkg = pkg_available();
	shm = shm_available();
	if(strncmp(name.s, "publish", name.len) == 0)
		n = pres.handle_publish(msg, NULL, NULL);
	else if(strncmp(name.s, "subscribe0", name.len) == 0)
		n = pres.handle_subscribe0(msg);
	else if(strncmp(name.s, "subscribe-as-carol", name.len) == 0)
		n = pres.handle_subscribe(msg, text("carol"), text("example.test"));
	else if(strncmp(name.s, "events", name.len) == 0)
		check_events();
	else if(strncmp(name.s, "table", name.len) == 0)
		check_table();
	else if(strncmp(name.s, "state", name.len) == 0)
		check_state();
	else if(strncmp(name.s, "extract", name.len) == 0)
		check_extract(msg);
	SAY("%.*s result=%d", name.len, name.s, n);
	SAY("MEMORY %.*s pkg=%ld shm=%ld", name.len, name.s, (long)(pkg - pkg_available()),
			(long)(shm - shm_available()));
	return 1;
}

static int mod_init(void)
{
	bind_presence_t bind = (bind_presence_t)find_export("bind_presence", 1, 0);
	pres_ev_t event;
	int first, again, bad, i, added = 0;
	char name[64];

	if(!bind || bind(&pres) < 0) {
		LM_ERR("cannot bind presence\n");
		return -1;
	}
	memset(&event, 0, sizeof(event));
	event.name = text("check-event");
	event.content_type = text("text/check");
	event.default_expires = 3600;
	event.type = PUBL_TYPE;
	first = pres.add_event(&event);
	again = pres.add_event(&event);
	event.name = text("bad-event");
	event.req_auth = 1;
	bad = pres.add_event(&event);
	SAY("add_event=%d again=%d bad=%d", first, again, bad);
	event.req_auth = 0;
	for(i = 0; i < more_events; i++) {
		snprintf(name, sizeof(name), "check-event-with-a-rather-long-name-%02d", i);
		event.name = text(name);
		added += pres.add_event(&event) == 0;
	}
	if(more_events)
		SAY("more events=%d", added);
	return 0;
}

static param_export_t parameters[] = {
	{"more_events", INT_PARAM, &more_events},
	{0, 0, 0},
};

static cmd_export_t commands[] = {
	{"api_check", (cmd_function)api_check, 1, fixup_spve_null, 0, REQUEST_ROUTE},
	{0, 0, 0, 0, 0, 0},
};

struct module_exports exports = {
	"api_check", 0, commands, parameters, 0, 0, 0, mod_init, 0, 0,
};
