//! The rows of a sibling's subscriptions, written with the sibling's own
//! connection.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::host::capi::db_timer::TO_INSERT;
use crate::host::capi::shtable::UPDATED;
use crate::host::database_value::{self, Keys};
use crate::host::log::log_error;
use crate::host::{sys, text};
use crate::ports::Value;

/// The key of a row, then the other columns that every table has.
const COLUMNS: [&str; 23] = [
    "presentity_uri",
    "callid",
    "to_tag",
    "from_tag",
    "to_user",
    "to_domain",
    "from_user",
    "from_domain",
    "watcher_username",
    "watcher_domain",
    "event",
    "event_id",
    "local_cseq",
    "remote_cseq",
    "expires",
    "status",
    "reason",
    "record_route",
    "contact",
    "local_contact",
    "socket_info",
    "version",
    "updated",
];
const KEY: usize = 4;
/// Columns that only some tables have (rls_watchers has none of them).
const SOMETIMES: [&str; 3] = ["updated_winfo", "user_agent", "flags"];
/// Columns that change.
const CHANGING: [&str; 8] = [
    "expires",
    "status",
    "reason",
    "remote_cseq",
    "local_cseq",
    "version",
    "contact",
    "record_route",
];

thread_local! {
    /// Those of `SOMETIMES` that a table has, by its name.
    static KNOWN: RefCell<HashMap<Vec<u8>, Vec<&'static str>>> = RefCell::default();
}

/// The sibling's database, its table chosen.
pub(super) struct Rows<'a> {
    connection: *mut sys::db1_con_t,
    functions: &'a sys::db_func_t,
}

impl<'a> Rows<'a> {
    /// The caller has chosen the table.
    pub(super) fn new(connection: *mut sys::db1_con_t, functions: &'a sys::db_func_t) -> Rows<'a> {
        Rows { connection, functions }
    }

    /// False if the row could not be written.
    pub(super) fn write(&self, subs: &sys::subs_t) -> bool {
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
        let row =
            || values.iter().filter(|(name, _)| COLUMNS.contains(name) || more.contains(name));
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

    /// Deletes the rows of what ended before `limit`.
    pub(super) fn delete_expired(&self, limit: i64) {
        let Some(delete) = self.functions.delete else { return };
        let keys = Keys::new(["expires"].into_iter());
        let value = database_value::lend(&Value::Int(limit));
        let less = c"<".as_ptr();
        // SAFETY: three arrays of one element, which outlive the call.
        let done =
            unsafe { delete(self.connection, keys.as_ptr(), &raw const less, &raw const value, 1) };
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
    // SAFETY: the strings of a record in a sibling's table stay while its slot is
    // locked, or while the sibling's call lasts.
    let text = |given: sys::_str| Value::text(unsafe { text::bytes(given) });
    let number = |given: u32| Value::Int(i64::from(given));
    // SAFETY: a record points to its event, one of our structures in shared
    // memory, which are never freed; or to none.
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
