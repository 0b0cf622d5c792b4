/*
 * Kamailio's macros and inline functions as plain functions, for Rust.
 */
#ifndef PRESENCE_SHIM_H
#define PRESENCE_SHIM_H

/* Logging. `place` begins the line; `text` need not be terminated. */
int kshim_log_enabled(int level);
void kshim_log(int level, const char *place, const char *text, int length);
/* Keeps this process's lines below critical out of the log; gives what undoes it. */
int kshim_hush(void);
void kshim_unhush(int before);
void kshim_log_facility(int facility, int level, const char *place, const char *text, int length);

/* Memory; NULL when there is none left. */
void *kshim_shm_malloc(size_t size);
void kshim_shm_free(void *block);
void *kshim_pkg_malloc(size_t size);
void kshim_pkg_free(void *block);
/* Bytes of memory left; whether its manager is qm. */
unsigned long kshim_pkg_available(void);
unsigned long kshim_shm_available(void);
int kshim_pkg_walks(void);
int kshim_shm_walks(void);
void kshim_join_no_more(void);

/* Whether somebody at this address has a TCP, TLS or WebSocket connection to us;
 * negative when the address is not numeric. */
int kshim_connected(str *host, int port);

/* A statistic of this module, whose value is asked for; negative on failure. */
int kshim_statistic(char *name, long (*value)(void));

/* Locks. */
void kshim_lock(gen_lock_t *lock);
int kshim_try_lock(gen_lock_t *lock);
void kshim_unlock(gen_lock_t *lock);

/* Keeps the host from answering a message. */
void kshim_never_reply(struct sip_msg *msg);

/* The CSeq header that a transaction keeps of its request: name, number, method. */
str kshim_transaction_cseq(struct cell *transaction);

/* Interfaces of other modules; negative when the module is not loaded. */
int kshim_load_sl(sl_api_t *api);
int kshim_load_tm(struct tm_binds *api);

/* Parses all headers; negative when one is malformed. */
int kshim_parse_headers(sip_msg_t *msg);

/* Says which kind of route runs (LOCAL_ROUTE ...); gives what it was. */
int kshim_set_route_type(int type);

/* Kamailio's hash of two texts without regard to case. */
unsigned int kshim_hash_case(str *one, str *other);

/* The script's values: 1 if there is such a number; negative if it fails. */
int kshim_xavp_number(str *root, str *child, long *number);
int kshim_set_avp(int id, str *text);

/* Takes over configuration changed at run time, in loops of own processes. */
void kshim_cfg_update(void);

#endif
