//! The nodes of the siblings' table.
//!
//! A node is one block: the structure, then its strings, `user_agent` last.
//! rls frees a node by shm_free alone, which then leaves nothing behind. A
//! contact or a route set that changed since lies in a block of its own.

use std::ptr;

use crate::host::{memory, sys, text};

/// Frees a node with everything that belongs to it.
///
/// # Safety
/// `node` is made by `copy` in shared memory and is in no list.
pub(in crate::host::capi) unsafe fn free_node(node: *mut sys::subs_t) {
    // SAFETY: the node was made by `copy` and nobody finds it any more; strings
    // outside the block are our own blocks of shared memory.
    unsafe {
        for text in [(*node).contact.s, (*node).record_route.s] {
            free_outside(node, text.cast());
        }
        sys::kshim_shm_free(node.cast());
    }
}

/// Frees a string that has a block of its own.
///
/// # Safety
/// `node` is made by `copy`; `text` is NULL or one of its strings.
pub(super) unsafe fn free_outside(node: *mut sys::subs_t, text: *mut u8) {
    // SAFETY: the node was made by `copy`: `user_agent` is the last string in the
    // block and always has a pointer.
    unsafe {
        let last = (*node).user_agent;
        let end = last.s.addr() + usize::try_from(last.len).unwrap_or(0);
        let inside = (node.addr()..=end).contains(&text.addr());
        if !text.is_null() && !inside {
            sys::kshim_shm_free(text.cast());
        }
    }
}

/// The strings that are copied.
const PARTS: [fn(&mut sys::subs_t) -> &mut sys::_str; 17] = [
    |s| &mut s.pres_uri,
    |s| &mut s.to_user,
    |s| &mut s.to_domain,
    |s| &mut s.from_user,
    |s| &mut s.from_domain,
    |s| &mut s.watcher_user,
    |s| &mut s.watcher_domain,
    |s| &mut s.event_id,
    |s| &mut s.to_tag,
    |s| &mut s.from_tag,
    |s| &mut s.callid,
    |s| &mut s.sockinfo_str,
    |s| &mut s.contact,
    |s| &mut s.local_contact,
    |s| &mut s.record_route,
    |s| &mut s.reason,
    |s| &mut s.user_agent,
];

/// A subscription with all its strings in one block. As in stock, pointers to
/// other records and the fields of the notifier are not copied.
///
/// # Safety
/// `from` is valid with its strings; `allocate` gives new blocks aligned to 8.
pub(super) unsafe fn copy(
    from: &sys::subs_t,
    allocate: impl FnOnce(usize) -> *mut u8,
) -> *mut sys::subs_t {
    let mut source = *from;
    // SAFETY: the strings of a `subs_t` have `len` readable bytes, or no pointer.
    let texts = PARTS.map(|part| unsafe { text::bytes(*part(&mut source)) });
    let strings: usize = texts.iter().map(|text| text.len()).sum();
    // One byte more, so that the last string points into the block even when
    // it is empty.
    let block = allocate(size_of::<sys::subs_t>() + strings + 1);
    if block.is_null() {
        return ptr::null_mut();
    }
    let mut made = sys::subs_t {
        event: from.event,
        local_cseq: from.local_cseq,
        remote_cseq: from.remote_cseq,
        status: from.status,
        version: from.version,
        send_on_cback: from.send_on_cback,
        expires: from.expires,
        db_flag: from.db_flag,
        flags: from.flags,
        ..Default::default()
    };
    let mut at = size_of::<sys::subs_t>();
    for (part, bytes) in PARTS.iter().zip(texts) {
        // SAFETY: the block has room for the structure and all strings.
        let place = unsafe {
            let place = block.add(at);
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            place
        };
        let target = part(&mut made);
        target.s = place.cast();
        target.len = text::lend(bytes).len;
        at += bytes.len();
    }
    // Siblings test these two pointers.
    for optional in [&mut made.event_id, &mut made.reason] {
        if optional.len == 0 {
            optional.s = ptr::null_mut();
        }
    }
    let node = block.cast::<sys::subs_t>();
    // SAFETY: the block is new, large enough and aligned to 8.
    unsafe { node.write(made) };
    node
}

/// For [`copy`]: a block of shared memory, or NULL.
pub(super) fn shm_block(size: usize) -> *mut u8 {
    memory::shm_allocate(size).map_or(ptr::null_mut(), std::ptr::NonNull::as_ptr)
}

/// A copy of a record in one block of pkg memory, or NULL.
///
/// # Safety
/// `from` is valid with its strings.
pub(in crate::host::capi) unsafe fn pkg_copy(from: &sys::subs_t) -> *mut sys::subs_t {
    // SAFETY: `from` has its strings; pkg memory is aligned to 8.
    unsafe { copy(from, |size| sys::kshim_pkg_malloc(size as _).cast()) }
}

/// Whether two strings of records are the same.
///
/// # Safety
/// Both records exist and do not change meanwhile.
pub(super) unsafe fn equal(one: sys::_str, other: sys::_str) -> bool {
    // SAFETY: strings of records whose slot is locked, or that are in no table:
    // nobody frees them meanwhile.
    unsafe { text::bytes(one) == text::bytes(other) }
}

/// A copy of `new` in a block of its own, if it differs from `old`.
///
/// # Safety
/// Both records exist and do not change meanwhile.
pub(super) unsafe fn replacement(old: sys::_str, new: sys::_str) -> Result<Option<sys::_str>, ()> {
    // SAFETY: strings of records whose slot is locked, or that are in no table:
    // nobody frees them meanwhile.
    if unsafe { equal(old, new) } {
        return Ok(None);
    }
    // SAFETY: the new string is of the record that a sibling has passed; it stays
    // during the call.
    let bytes = unsafe { text::bytes(new) };
    let block = memory::shm_copy(bytes).ok_or(())?;
    Ok(Some(sys::_str { s: block.as_ptr().cast(), len: text::lend(bytes).len }))
}
