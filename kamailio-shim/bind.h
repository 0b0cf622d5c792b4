/*
 * What bindgen reads: the headers of Kamailio's core and of the modules whose
 * interfaces the host layer uses, and the shim's own helpers.
 *
 * ver_defs.h comes first: some memory headers define what it tests, and the
 * loader compares the flags string as it is without them.
 */
#ifndef PRESENCE_BIND_H
#define PRESENCE_BIND_H

#include "core/ver_defs.h"
#include "core/sr_module.h"
#include "core/mod_fix.h"
#include "core/dprint.h"
#include "core/str.h"
#include "core/pt.h"
#include "core/timer.h"
#include "core/timer_proc.h"
#include "core/cfg/cfg_struct.h"
#include "core/mem/mem.h"
#include "core/mem/shm_mem.h"
#include "core/lock_ops.h"
#include "core/hashes.h"
#include "core/ip_addr.h"
#include "core/socket_info.h"
#include "core/globals.h"
#include "core/resolve.h"
#include "core/tcp_conn.h"
#include "core/dset.h"
#include "core/data_lump_rpl.h"
#include "core/receive.h"
#include "core/route.h"
#include "core/fmsg.h"
#include "core/pvar.h"
#include "core/xavp.h"
#include "core/usr_avp.h"
#include "core/action.h"
#include "core/counters.h"
#include "core/rpc.h"
#include "core/rpc_lookup.h"
#include "core/kemi.h"
#include "core/utils/sruid.h"
#include "core/parser/msg_parser.h"
#include "core/parser/parse_uri.h"
#include "core/parser/parse_from.h"
#include "core/parser/parse_to.h"
#include "core/parser/parse_cseq.h"
#include "core/parser/parse_event.h"
#include "core/parser/parse_rr.h"
#include "core/parser/parse_content.h"
#include "core/parser/contact/parse_contact.h"
#include "lib/srdb1/db.h"
#include "modules/tm/tm_load.h"
#include "modules/sl/sl.h"
#include "modules/dmq/bind_dmq.h"
#include "modules/presence/event_list.h"
#include "modules/presence/subscribe.h"
#include "modules/presence/hash.h"
#include "modules/presence/presentity.h"
#include "modules/presence/bind_presence.h"

#include "shim.h"

#endif
