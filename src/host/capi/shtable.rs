//! The table of subscriptions in shared memory that rls and ims_usrloc_scscf
//! keep for themselves. They lock the slots, walk the lists and unlink nodes
//! on their own, so all layouts are those of Kamailio's headers.

mod node;

use std::ffi::{c_int, c_uint};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::host::capi::shtable::node::{copy, equal, free_outside, replacement, shm_block};
pub(super) use crate::host::capi::shtable::node::{free_node, pkg_copy};
use crate::host::lock;
use crate::host::log::log_error;
use crate::host::{boundary, memory, sys};

/// `db_flag`: the row is as in the database.
pub(super) const NOT_UPDATED: c_int = 1;
/// `db_flag`: the row is to be updated.
pub(super) const UPDATED: c_int = 2;

static DELETE_SAME: AtomicBool = AtomicBool::new(false);

/// Module parameter `delete_same_subs`.
pub fn set_delete_same(delete: bool) {
    DELETE_SAME.store(delete, Ordering::Relaxed);
}

fn now() -> c_uint {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    c_uint::try_from(now).unwrap_or(c_uint::MAX)
}

/// `new_shtable`: a table of `size` slots, or NULL.
pub unsafe extern "C" fn new_shtable(size: c_int) -> sys::shtable_t {
    boundary::enter("new_shtable", ptr::null_mut(), || {
        let count = usize::try_from(size).unwrap_or(0);
        let Some(table) = zeroed::<sys::subs_entry_t>(count.max(1)) else {
            log_error!("no shared memory for a table of {count} slots");
            return ptr::null_mut();
        };
        for at in 0..count {
            // Every list begins with a node that is no subscription.
            let Some(head) = zeroed::<sys::subs_t>(1) else {
                log_error!("no shared memory for a table of {count} slots");
                // SAFETY: the slots so far are complete and nobody knows them.
                unsafe { destroy(table, at) };
                return ptr::null_mut();
            };
            // SAFETY: the table has `count` slots. Its locks are unlocked,
            // being zero.
            unsafe { (*table.add(at)).entries = head };
        }
        table
    })
}

fn zeroed<T>(count: usize) -> Option<*mut T> {
    let size = size_of::<T>().checked_mul(count)?;
    let block = memory::shm_allocate(size)?.as_ptr();
    // SAFETY: the block is new and has `size` bytes.
    unsafe { block.write_bytes(0, size) };
    Some(block.cast())
}

/// `destroy_shtable`: frees the table with everything in it.
pub unsafe extern "C" fn destroy_shtable(table: sys::shtable_t, size: c_int) {
    boundary::enter("destroy_shtable", (), || {
        if !table.is_null() {
            // SAFETY: the caller's table, of that size, that nobody uses any more.
            unsafe { destroy(table, usize::try_from(size).unwrap_or(0)) };
        }
    });
}

/// # Safety
/// `table` has `count` complete slots and nobody uses it.
unsafe fn destroy(table: sys::shtable_t, count: usize) {
    for at in 0..count {
        // SAFETY: `new_shtable` has made so many slots; each is complete, and its
        // sibling uses none any more.
        unsafe {
            let head = (*table.add(at)).entries;
            if head.is_null() {
                continue;
            }
            let mut node = (*head).next;
            while !node.is_null() {
                let next = (*node).next;
                free_node(node);
                node = next;
            }
            sys::kshim_shm_free(head.cast());
        }
    }
    // SAFETY: the table is a block of shared memory.
    unsafe { sys::kshim_shm_free(table.cast()) };
}

/// `mem_copy_subs`: a copy in one block of pkg or shared memory, for the
/// caller to free.
pub unsafe extern "C" fn mem_copy_subs(subs: *mut sys::subs_t, kind: c_int) -> *mut sys::subs_t {
    boundary::enter("mem_copy_subs", ptr::null_mut(), || {
        // SAFETY: a sibling passes a valid structure.
        let Some(subs) = (unsafe { subs.as_ref() }) else { return ptr::null_mut() };
        let in_pkg = kind & sys::PKG_MEM_TYPE as c_int != 0;
        // SAFETY: the sibling's structure stays during the call; both heaps align
        // to 8.
        let made = unsafe {
            if in_pkg {
                copy(subs, |size| sys::kshim_pkg_malloc(size as _).cast())
            } else {
                copy(subs, shm_block)
            }
        };
        if made.is_null() {
            log_error!("no {} memory for a subscription", if in_pkg { "pkg" } else { "shared" });
        }
        made
    })
}

/// `insert_shtable`: stores a copy at the front of a slot. `expires` is
/// relative in 5.6; from 6.1 it may also be absolute, which is larger.
pub unsafe extern "C" fn insert_shtable(
    table: sys::shtable_t,
    hash: c_uint,
    subs: *mut sys::subs_t,
) -> c_int {
    boundary::enter("insert_shtable", -1, || {
        // SAFETY: a sibling passes its table and a valid structure; `hash` is
        // a slot of the table. The slot's lock guards the list.
        unsafe {
            let Some(subs) = subs.as_ref() else { return -1 };
            let slot = table.add(hash as usize);
            let node = copy(subs, shm_block);
            if node.is_null() {
                log_error!("no shared memory for a subscription");
                return -1;
            }
            let now = now();
            if (*node).expires < now {
                (*node).expires = (*node).expires.saturating_add(now);
            }
            let same = lock::with_raw(&raw mut (*slot).lock, || {
                let head = (*slot).entries;
                let same = if DELETE_SAME.load(Ordering::Relaxed) {
                    unlink(head, |known| {
                        equal(known.pres_uri, subs.pres_uri) && equal(known.callid, subs.callid)
                    })
                } else {
                    ptr::null_mut()
                };
                (*node).next = (*head).next;
                (*head).next = node;
                same
            });
            if !same.is_null() {
                free_node(same);
            }
            0
        }
    })
}

/// Takes the first node that `wanted` accepts out of a list; NULL if none.
///
/// # Safety
/// `head` begins a list whose lock is held.
unsafe fn unlink(
    head: *mut sys::subs_t,
    wanted: impl Fn(&sys::subs_t) -> bool,
) -> *mut sys::subs_t {
    let mut before = head;
    // SAFETY: the slot's lock is held: nobody else changes the list, whose nodes
    // are made by `copy`.
    unsafe {
        while !before.is_null() && !(*before).next.is_null() {
            let node = (*before).next;
            if wanted(&*node) {
                (*before).next = (*node).next;
                return node;
            }
            before = node;
        }
    }
    ptr::null_mut()
}

/// `search_shtable`: the live node of a dialog, or NULL; the caller holds the
/// slot's lock.
pub unsafe extern "C" fn search_shtable(
    table: sys::shtable_t,
    call_id: sys::_str,
    to_tag: sys::_str,
    from_tag: sys::_str,
    hash: c_uint,
) -> *mut sys::subs_t {
    boundary::enter("search_shtable", ptr::null_mut(), || {
        // SAFETY: `hash` is a slot of the caller's table, locked by it.
        unsafe { search((*table.add(hash as usize)).entries, call_id, to_tag, from_tag) }
    })
}

/// # Safety
/// `head` is NULL or begins a list whose lock is held.
pub(super) unsafe fn search(
    head: *mut sys::subs_t,
    call_id: sys::_str,
    to_tag: sys::_str,
    from_tag: sys::_str,
) -> *mut sys::subs_t {
    // SAFETY: the slot's lock is held: nobody else changes the list, which ends
    // with NULL.
    unsafe {
        let mut node = head.as_ref().map_or(ptr::null_mut(), |head| head.next);
        while let Some(one) = node.as_ref() {
            if equal(one.callid, call_id)
                && equal(one.to_tag, to_tag)
                && equal(one.from_tag, from_tag)
            {
                return node;
            }
            node = one.next;
        }
    }
    ptr::null_mut()
}

/// `delete_shtable`: removes a dialog; its next CSeq, or -1 if it is unknown.
pub unsafe extern "C" fn delete_shtable(
    table: sys::shtable_t,
    hash: c_uint,
    subs: *mut sys::subs_t,
) -> c_int {
    boundary::enter("delete_shtable", -1, || {
        // SAFETY: `hash` is a slot of the caller's table; its lock guards it.
        unsafe {
            let Some(subs) = subs.as_ref() else { return -1 };
            let slot = table.add(hash as usize);
            let node = lock::with_raw(&raw mut (*slot).lock, || {
                unlink((*slot).entries, |known| {
                    equal(known.callid, subs.callid)
                        && equal(known.to_tag, subs.to_tag)
                        && equal(known.from_tag, subs.from_tag)
                })
            });
            if node.is_null() {
                return -1;
            }
            let next_cseq = (*node).local_cseq.saturating_add(1);
            free_node(node);
            c_int::try_from(next_cseq).unwrap_or(c_int::MAX)
        }
    })
}

/// `update_shtable`: what a refresh (REMOTE) or a NOTIFY (LOCAL) changes; the
/// new counters go back into `subs`. 0, or -1 if the dialog is unknown or
/// there is no memory; then nothing has changed.
pub unsafe extern "C" fn update_shtable(
    table: sys::shtable_t,
    hash: c_uint,
    subs: *mut sys::subs_t,
    kind: c_int,
) -> c_int {
    boundary::enter("update_shtable", -1, || {
        // SAFETY: `hash` is a slot of the caller's table; its lock guards the
        // list and its nodes.
        unsafe {
            let Some(subs) = subs.as_mut() else { return -1 };
            let slot = table.add(hash as usize);
            lock::with_raw(&raw mut (*slot).lock, || {
                let node = search((*slot).entries, subs.callid, subs.to_tag, subs.from_tag);
                if node.is_null() { -1 } else { update(node, subs, kind) }
            })
        }
    })
}

/// # Safety
/// The lock of the node's slot is held.
unsafe fn update(node: *mut sys::subs_t, subs: &mut sys::subs_t, kind: c_int) -> c_int {
    // SAFETY: the lock of the node's slot is held; strings of both records exist.
    unsafe {
        let known = &mut *node;
        // Allocate first, change after.
        let contact = replacement(known.contact, subs.contact);
        let route = replacement(known.record_route, subs.record_route);
        let (Ok(contact), Ok(route)) = (contact, route) else {
            for made in [contact, route].into_iter().flatten().flatten() {
                sys::kshim_shm_free(made.s.cast());
            }
            log_error!("no shared memory to update a subscription");
            return -1;
        };
        if kind & sys::REMOTE_TYPE as c_int != 0 {
            known.expires = subs.expires.saturating_add(now());
            known.remote_cseq = subs.remote_cseq;
        } else {
            known.local_cseq = known.local_cseq.wrapping_add(1);
            known.version = known.version.wrapping_add(1);
            subs.local_cseq = known.local_cseq;
            subs.version = known.version;
        }
        if let Some(contact) = contact {
            free_outside(node, known.contact.s.cast());
            known.contact = contact;
        }
        if let Some(route) = route {
            free_outside(node, known.record_route.s.cast());
            known.record_route = route;
        }
        known.status = subs.status;
        known.event = subs.event;
        subs.db_flag = known.db_flag;
        if known.db_flag & NOT_UPDATED != 0 {
            known.db_flag = UPDATED;
        }
        0
    }
}
