//! `update_db_subs_timer`: ends and writes the subscriptions of a sibling's
//! table. The sibling's lock is held only while a list is changed or copied:
//! its handler, which sends, and its database are called without.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::host::capi::shtable::{NOT_UPDATED, UPDATED, free_node, pkg_copy, search};
use crate::host::database_value::{self, Keys};
use crate::host::log::{log_error};
use crate::host::{boundary, lock, module, sys, text};
use crate::ports::Value;

/// `db_flag`: there is no row yet.
const TO_INSERT: c_int = 4;
/// `db_flag`: nobody has said. rls never sets it, so that the stock module
/// writes none of its subscriptions.
const UNKNOWN: c_int = 0;

/// The key of a row, then the other columns that every table has.
const COLUMNS: [&str; 23] = [
    "presentity_uri", "callid", "to_tag", "from_tag", "to_user", "to_domain", "from_user",
    "from_domain", "watcher_username", "watcher_domain", "event", "event_id", "local_cseq",
    "remote_cseq", "expires", "status", "reason", "record_route", "contact", "local_contact",
    "socket_info", "version", "updated",
];
const KEY: usize = 4;
/// Columns that only some tables have (rls_watchers has none of them).
const SOMETIMES: [&str; 3] = ["updated_winfo", "user_agent", "flags"];
/// Columns that change.
const CHANGING: [&str; 8] = [
    "expires", "status", "reason", "remote_cseq", "local_cseq", "version", "contact",
    "record_route",
];

thread_local! {
    /// Those of `SOMETIMES` that a table has, by its name.
    static KNOWN: RefCell<HashMap<Vec<u8>, Vec<&'static str>>> = RefCell::default();
}

/// Ends what has expired (the handler is called for each, unless `no_lock`),
/// writes what has changed, deletes the rows of what has expired. `no_lock`:
/// the server stops and nobody else uses the table. The caller has chosen the
/// database's table.
pub unsafe extern "C" fn update_db_subs_timer(
    connection: *mut sys::db1_con_t,
    functions: *mut sys::db_func_t,
    table: sys::shtable_t,
    slots: c_int,
    no_lock: c_int,
    handler: sys::handle_expired_func_t,
) {
    boundary::enter("update_db_subs_timer", (), || {
        // SAFETY: the sibling passes its driver's functions and its table.
        let Some(functions) = (unsafe { functions.as_ref() }) else { return };
        if connection.is_null() || table.is_null() {
            return;
        }
        let offset = module::config().map_or(0, |config| i64::from(config.expires_offset));
        let limit = now() - offset;
        let rows = Rows { connection, functions };
        for slot in 0..usize::try_from(slots).unwrap_or(0) {
            // SAFETY: a slot of the sibling's table.
            let slot = unsafe { Slot { entry: &mut *table.add(slot), locks: no_lock == 0 } };
            slot.expire(limit, handler);
            slot.write(&rows);
        }
        rows.delete_expired(limit);
    });
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

struct Slot<'a> {
    entry: &'a mut sys::subs_entry_t,
    locks: bool,
}

impl Slot<'_> {
    fn locked<R>(&self, work: impl FnOnce(*mut sys::subs_t) -> R) -> R {
        let head = self.entry.entries;
        if !self.locks {
            return work(head);
        }
        // SAFETY: the slot's own lock; nobody here holds it.
        unsafe { lock::with_raw((&raw const self.entry.lock).cast_mut(), || work(head)) }
    }

    /// Takes out what ended before `limit`, then reports and frees it.
    fn expire(&self, limit: i64, handler: sys::handle_expired_func_t) {
        let mut expired = Vec::new();
        self.locked(|head| {
            let mut before = head;
            // SAFETY: the list is locked; it begins with a node that is no
            // subscription.
            unsafe {
                while !before.is_null() && !(*before).next.is_null() {
                    let node = (*before).next;
                    if i64::from((*node).expires) < limit {
                        (*before).next = (*node).next;
                        (*node).next = std::ptr::null_mut();
                        expired.push(node);
                    } else {
                        before = node;
                    }
                }
            }
        });
        for node in expired {
            // SAFETY: the node is in no list any more, so it is ours.
            unsafe {
                if let (true, Some(handler)) = (self.locks, handler)
                    && handler(node) < 0
                {
                    log_error!("the end of a subscription could not be reported");
                }
                free_node(node);
            }
        }
    }

    /// Writes copies of what has changed.
    fn write(&self, rows: &Rows<'_>) {
        let mut copies = Vec::new();
        self.locked(|head| {
            // SAFETY: the list is locked.
            unsafe {
                let mut node = head.as_ref().map_or(std::ptr::null_mut(), |head| head.next);
                while let Some(record) = node.as_mut() {
                    if matches!(record.db_flag, UPDATED | TO_INSERT | UNKNOWN) {
                        let copy = pkg_copy(record);
                        if !copy.is_null() {
                            copies.push(copy);
                            // What changes from here on is written next time.
                            record.db_flag = NOT_UPDATED;
                        }
                    }
                    node = record.next;
                }
            }
        });
        for copy in copies {
            // SAFETY: our own copy in pkg memory, complete with its strings.
            unsafe {
                let subs = &*copy;
                if !rows.write(subs) {
                    self.put_back(subs);
                }
                sys::kshim_pkg_free(copy.cast());
            }
        }
    }

    /// The row could not be written: it is tried again next time.
    fn put_back(&self, subs: &sys::subs_t) {
        self.locked(|head| {
            // SAFETY: the list is locked.
            unsafe {
                let node = search(head, subs.callid, subs.to_tag, subs.from_tag);
                if let Some(record) = node.as_mut() {
                    record.db_flag = subs.db_flag;
                }
            }
        });
    }
}

/// The sibling's database, its table chosen.
struct Rows<'a> {
    connection: *mut sys::db1_con_t,
    functions: &'a sys::db_func_t,
}

impl Rows<'_> {
    /// False if the row could not be written.
    fn write(&self, subs: &sys::subs_t) -> bool {
        // SAFETY: a copy whose strings live as long as it does.
        let texts = unsafe { values(subs) };
        match subs.db_flag {
            UPDATED => self.update(&texts),
            TO_INSERT => self.insert(&texts),
            // A row that was restored may be there.
            _ => self.delete(&texts) && self.insert(&texts),
        }
    }

    fn insert(&self, values: &[(&'static str, Value)]) -> bool {
        let Some(insert) = self.functions.insert else { return false };
        let more = self.columns();
        let row = || {
            values.iter().filter(|(name, _)| COLUMNS.contains(name) || more.contains(name))
        };
        let keys = Keys::new(row().map(|(name, _)| *name));
        let values: Vec<_> = row().map(|(_, value)| database_value::lend(value)).collect();
        // SAFETY: as many keys as values, which outlive the call.
        let done =
            unsafe { insert(self.connection, keys.as_ptr(), values.as_ptr(), keys.count()) } >= 0;
        if !done {
            log_error!("a subscription of another module could not be inserted");
        }
        done
    }

    fn delete(&self, values: &[(&'static str, Value)]) -> bool {
        let Some(delete) = self.functions.delete else { return false };
        let where_values = pick(values, &COLUMNS[..KEY]);
        let keys = Keys::new(COLUMNS[..KEY].iter().copied());
        // SAFETY: as many keys as values, which outlive the call; without
        // operators all compare for equality.
        unsafe {
            let values = where_values.as_ptr();
            delete(self.connection, keys.as_ptr(), std::ptr::null(), values, keys.count()) >= 0
        }
    }

    fn update(&self, values: &[(&'static str, Value)]) -> bool {
        let Some(update) = self.functions.update else { return false };
        let where_values = pick(values, &COLUMNS[..KEY]);
        let set_values = pick(values, &CHANGING);
        let keys = Keys::new(COLUMNS[..KEY].iter().copied());
        let set = Keys::new(CHANGING.iter().copied());
        // SAFETY: two groups of arrays of the lengths given, which outlive the
        // call; without operators all compare for equality.
        let done = unsafe {
            update(
                self.connection,
                keys.as_ptr(),
                std::ptr::null(),
                where_values.as_ptr(),
                set.as_ptr(),
                set_values.as_ptr(),
                keys.count(),
                set.count(),
            )
        } >= 0;
        if !done {
            log_error!("a subscription of another module could not be updated");
        }
        done
    }

    fn delete_expired(&self, limit: i64) {
        let Some(delete) = self.functions.delete else { return };
        let keys = Keys::new(["expires"].into_iter());
        let value = database_value::lend(&Value::Int(limit));
        let less = c"<".as_ptr();
        // SAFETY: three arrays of one element, which outlive the call.
        let done = unsafe {
            delete(self.connection, keys.as_ptr(), &raw const less, &raw const value, 1)
        };
        if done < 0 {
            log_error!("expired subscriptions of another module could not be deleted");
        }
    }

    /// Which of the columns that only some tables have this one has: a query
    /// for all columns of no row says it, with most drivers. The tables are
    /// looked at once.
    fn columns(&self) -> Vec<&'static str> {
        // SAFETY: the open connection names its table.
        let table = unsafe { text::pointed((*self.connection).table) }.unwrap_or_default();
        if let Some(known) = KNOWN.with_borrow(|known| known.get(table).cloned()) {
            return known;
        }
        let found = self.probe().unwrap_or_default();
        KNOWN.with_borrow_mut(|known| known.insert(table.to_vec(), found.clone()));
        found
    }

    fn probe(&self) -> Option<Vec<&'static str>> {
        let query = self.functions.query?;
        let keys = Keys::new(["expires"].into_iter());
        let value = database_value::lend(&Value::Int(-1));
        let less = c"<".as_ptr();
        let mut result = std::ptr::null_mut();
        // SAFETY: arrays of one element, which outlive the call; no columns
        // and no order are given.
        unsafe {
            let done = query(
                self.connection,
                keys.as_ptr(),
                &raw const less,
                &raw const value,
                std::ptr::null(),
                1,
                0,
                std::ptr::null_mut(),
                &raw mut result,
            );
            if done < 0 {
                return None;
            }
            let found = result.as_ref().map(|found| {
                let count = usize::try_from(found.col.n).unwrap_or(0);
                let names = (0..count).filter(|_| !found.col.names.is_null()).filter_map(|at| {
                    let name = text::pointed(*found.col.names.add(at))?;
                    SOMETIMES.into_iter().find(|known| known.as_bytes() == name)
                });
                names.collect()
            });
            if let (false, Some(free)) = (result.is_null(), self.functions.free_result) {
                free(self.connection, result);
            }
            found
        }
    }
}

/// The values of some columns, in their order.
fn pick(values: &[(&'static str, Value)], names: &[&'static str]) -> Vec<sys::db_val_t> {
    let chosen = names.iter().filter_map(|name| values.iter().find(|(n, _)| n == name));
    chosen.map(|(_, value)| database_value::lend(value)).collect()
}

/// The columns of a record and their values.
///
/// # Safety
/// The record is valid with its strings and its event.
unsafe fn values(subs: &sys::subs_t) -> Vec<(&'static str, Value)> {
    // SAFETY: the caller's promise.
    let text = |given: sys::_str| Value::text(unsafe { text::bytes(given) });
    let number = |given: u32| Value::Int(i64::from(given));
    // SAFETY: as above.
    let event = unsafe { subs.event.as_ref() }.map(|event| event.name).unwrap_or_default();
    vec![
        ("presentity_uri", text(subs.pres_uri)),
        ("callid", text(subs.callid)),
        ("to_tag", text(subs.to_tag)),
        ("from_tag", text(subs.from_tag)),
        ("to_user", text(subs.to_user)),
        ("to_domain", text(subs.to_domain)),
        ("from_user", text(subs.from_user)),
        ("from_domain", text(subs.from_domain)),
        ("watcher_username", text(subs.watcher_user)),
        ("watcher_domain", text(subs.watcher_domain)),
        ("event", text(event)),
        ("event_id", text(subs.event_id)),
        ("local_cseq", number(subs.local_cseq)),
        ("remote_cseq", number(subs.remote_cseq)),
        ("expires", number(subs.expires)),
        ("status", number(subs.status)),
        ("reason", text(subs.reason)),
        ("record_route", text(subs.record_route)),
        ("contact", text(subs.contact)),
        ("local_contact", text(subs.local_contact)),
        ("socket_info", text(subs.sockinfo_str)),
        ("version", Value::Int(i64::from(subs.version))),
        ("updated", Value::Int(-1)),
        ("updated_winfo", Value::Int(-1)),
        ("user_agent", text(subs.user_agent)),
        ("flags", number(subs.flags)),
    ]
}
