//! `update_db_subs_timer`: ends and writes the subscriptions of a sibling's
//! table. The sibling's lock is held only while a list is changed or copied:
//! its handler, which sends, and its database are called without.

mod rows;

use std::ffi::c_int;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::host::capi::db_timer::rows::Rows;
use crate::host::capi::shtable::{NOT_UPDATED, UPDATED, free_node, pkg_copy, search};
use crate::host::log::log_error;
use crate::host::{boundary, lock, state, sys};

/// `db_flag`: there is no row yet.
const TO_INSERT: c_int = 4;
/// `db_flag`: nobody has said. rls never sets it, so that the stock module
/// writes none of its subscriptions.
const UNKNOWN: c_int = 0;

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
        let offset = state::config().map_or(0, |config| i64::from(config.expires_offset));
        let limit = now() - offset;
        let rows = Rows::new(connection, functions);
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
