//! The pseudo-variables `$subs(attribute)` and `$notify_reply(variable)`.
//!
//! `$subs` shows one subscription at a time: the one that handle_subscribe
//! accepted last in this process; while tm builds a NOTIFY that NOTIFY's, and
//! in event_route[presence:notify-reply] that of the answered one. Numbers are
//! counted as the stock module counts them.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_int;
use std::ptr;
use std::rc::Rc;

use crate::host::log::{Printable, log_error};
use crate::host::memory::PkgBlock;
use crate::host::{packages, state, sys, text};
use crate::presence::cseq::CSeq;
use crate::presence::subscription::{Snapshot, Text};
use crate::presence::uri::presentity_uri;

/// A subscription that the script may look at.
#[derive(Debug)]
pub struct ShownSubscription {
    subscription: Snapshot,
    /// Its URI, made when the script asks for it.
    presentity: OnceCell<Vec<u8>>,
    event: &'static [u8],
    local_cseq: CSeq,
    version: u32,
}

impl ShownSubscription {
    /// Shows it as of a NOTIFY with this CSeq; `None` when `pres_subs_mode` is off.
    pub fn notified(subscription: &Snapshot, cseq: CSeq) -> Option<ShownSubscription> {
        // The stock module counts the number before the one that tm sends.
        ShownSubscription::new(subscription, cseq.saturating_sub(1), subscription.version)
    }

    /// As accepted by handle_subscribe, before its NOTIFY. The stock module
    /// has counted up what it has loaded, but begins with 0.
    pub fn accepted(subscription: &Snapshot, initial: bool) -> Option<ShownSubscription> {
        let local_cseq = if initial { CSeq::default() } else { subscription.local_cseq };
        ShownSubscription::new(subscription, local_cseq, subscription.version.wrapping_add(1))
    }

    fn new(subscription: &Snapshot, local_cseq: CSeq, version: u32) -> Option<ShownSubscription> {
        if !state::config()?.pres_subs_mode {
            return None;
        }
        // SAFETY: registered packages stay in shared memory, with their names.
        let event = unsafe {
            packages::structure_of(subscription.package)
                .as_ref()
                .map(|event| text::bytes(event.name))
        };
        Some(ShownSubscription {
            presentity: OnceCell::new(),
            event: event.unwrap_or_default(),
            local_cseq,
            version,
            subscription: subscription.clone(),
        })
    }
}

impl ShownSubscription {
    fn presentity(&self) -> &[u8] {
        let text = |field| self.subscription.text(field);
        self.presentity
            .get_or_init(|| presentity_uri(text(Text::PresentityUser), text(Text::PresentityHost)))
    }
}

thread_local! {
    /// What `$subs` shows. A value that the script holds points into it, so
    /// whoever replaces it keeps the former one until it returns.
    static CURRENT: RefCell<Option<Rc<ShownSubscription>>> = const { RefCell::new(None) };
    /// The message that `$notify_reply` looks at.
    static REPLY: Cell<*mut sys::sip_msg> = const { Cell::new(ptr::null_mut()) };
}

/// Makes `$subs` show this, or nothing. Gives what it showed before; the
/// caller drops that when nobody can hold a value of it any more.
pub fn set_subscription(shown: Option<ShownSubscription>) -> Option<Rc<ShownSubscription>> {
    CURRENT.replace(shown.map(Rc::new))
}

/// `$subs` shows a subscription of the request in hand.
pub fn shows_subscription() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Ends with what `$subs` showed before.
#[must_use]
pub struct Showing(Option<Rc<ShownSubscription>>);

impl Drop for Showing {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Makes `$subs` show this while the result lives.
pub fn show(shown: Option<ShownSubscription>) -> Showing {
    Showing(set_subscription(shown))
}

/// Ends with the reply that `$notify_reply` looked at before.
#[must_use]
pub struct Replying(*mut sys::sip_msg);

impl Drop for Replying {
    fn drop(&mut self) {
        REPLY.set(self.0);
    }
}

/// Makes `$notify_reply` look at this message while the result lives.
///
/// # Safety
/// The message is valid as long as the result lives.
pub unsafe fn show_reply(reply: *mut sys::sip_msg) -> Replying {
    Replying(REPLY.replace(reply))
}

#[derive(Clone, Copy)]
enum Attribute {
    Presentity,
    Event,
    Text(Text),
    RemoteCseq,
    LocalCseq,
    Expires,
    Status,
    Version,
    Flags,
}

const ATTRIBUTES: &[(&[u8], Attribute)] = &[
    (b"uri", Attribute::Presentity),
    (b"pres_uri", Attribute::Presentity),
    (b"to_user", Attribute::Text(Text::ToUser)),
    (b"to_domain", Attribute::Text(Text::ToHost)),
    (b"from_user", Attribute::Text(Text::FromUser)),
    (b"from_domain", Attribute::Text(Text::FromHost)),
    (b"watcher_username", Attribute::Text(Text::WatcherUser)),
    (b"watcher_domain", Attribute::Text(Text::WatcherHost)),
    (b"event", Attribute::Event),
    (b"event_id", Attribute::Text(Text::EventId)),
    (b"to_tag", Attribute::Text(Text::ToTag)),
    (b"from_tag", Attribute::Text(Text::FromTag)),
    (b"callid", Attribute::Text(Text::CallId)),
    (b"remote_cseq", Attribute::RemoteCseq),
    (b"local_cseq", Attribute::LocalCseq),
    (b"contact", Attribute::Text(Text::Contact)),
    (b"local_contact", Attribute::Text(Text::LocalContact)),
    (b"record_route", Attribute::Text(Text::RecordRoute)),
    (b"expires", Attribute::Expires),
    (b"status", Attribute::Status),
    (b"reason", Attribute::Text(Text::Reason)),
    (b"version", Attribute::Version),
    (b"flags", Attribute::Flags),
    (b"user_agent", Attribute::Text(Text::UserAgent)),
    (b"sockinfo", Attribute::Text(Text::Socket)),
];

/// Finds the attribute of a `$subs` in the script.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
pub unsafe fn subs_name(spec: *mut sys::_pv_spec, name: *const sys::_str) -> c_int {
    // SAFETY: the script's parser passes the variable it is making, and its name
    // as a `str` that stays during the call.
    let (Some(spec), Some(name)) = (unsafe { spec.as_mut() }, unsafe { text::pointed(name) })
    else {
        return -1;
    };
    let Some(at) = ATTRIBUTES.iter().position(|(known, _)| *known == name) else {
        log_error!("$subs({}): there is no such attribute", Printable(name));
        return -1;
    };
    spec.pvp.pvn.type_ = sys::PV_NAME_OTHER as c_int;
    // The position travels in the place of the name's pointer.
    spec.pvp.pvn.u.dname = ptr::without_provenance_mut(at);
    0
}

/// The value of a `$subs`; null when there is no subscription.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
pub unsafe fn subs(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    // SAFETY: `subs_name` has stored a position there.
    let at = unsafe { param.as_ref().map_or(usize::MAX, |param| param.pvn.u.dname.addr()) };
    let attribute = ATTRIBUTES.get(at).map(|(_, attribute)| *attribute);
    let shown = CURRENT.with_borrow(Option::clone);
    let (Some(attribute), Some(shown)) = (attribute, shown) else {
        // SAFETY: the core passes the place of a value; `pv_get_null` only writes
        // to it.
        return unsafe { sys::pv_get_null(msg, param, value) };
    };
    let subscription = &shown.subscription;
    let bytes = |bytes: &[u8]| {
        let mut lent = text::lend(bytes);
        // SAFETY: the core passes the place of a value. The value points into
        // what CURRENT holds, which outlives its use by the script.
        unsafe { sys::pv_get_strval(msg, param, value, &raw mut lent) }
    };
    // SAFETY: the core passes the place of a value; the number is copied into it.
    let number = |number: u32| unsafe { sys::pv_get_uintval(msg, param, value, number as _) };
    // SAFETY: the core passes the place of a value; the number is copied into it.
    let signed = |number: u32| unsafe {
        sys::pv_get_sintval(msg, param, value, i32::from_ne_bytes(number.to_ne_bytes()) as _)
    };
    match attribute {
        Attribute::Presentity => bytes(shown.presentity()),
        Attribute::Event => bytes(shown.event),
        Attribute::Text(field) => bytes(subscription.text(field)),
        Attribute::RemoteCseq => number(subscription.remote_cseq.0),
        Attribute::LocalCseq => number(shown.local_cseq.0),
        Attribute::Expires => number(subscription.expires),
        Attribute::Status => number(subscription.status as u32),
        Attribute::Version => signed(shown.version),
        Attribute::Flags => signed(subscription.flags),
    }
}

/// Reads the variable inside a `$notify_reply` in the script.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
pub unsafe fn reply_name(spec: *mut sys::_pv_spec, name: *mut sys::_str) -> c_int {
    // SAFETY: the script's parser passes the variable it is making, and its name
    // as a `str` that stays during the call.
    let (Some(spec), Some(inner)) = (unsafe { spec.as_mut() }, unsafe { text::pointed(name) })
    else {
        return -1;
    };
    let block = PkgBlock::zeroed(size_of::<sys::_pv_spec>()).filter(|_| !inner.is_empty());
    let Some(block) = block else { return -1 };
    let variable = block.as_ptr().cast::<sys::_pv_spec>();
    // SAFETY: the block is as large as a variable and all zero.
    if unsafe { sys::pv_parse_spec2(name, variable, 0) }.is_null() {
        log_error!("$notify_reply({}): there is no such variable", Printable(inner));
        return -1;
    }
    // It belongs to the script from here on, which is never freed.
    block.into_raw();
    spec.pvp.pvn.type_ = sys::PV_NAME_OTHER as c_int;
    spec.pvp.pvn.u.dname = variable.cast();
    0
}

/// The value of a `$notify_reply`; null outside the event route.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
pub unsafe fn reply(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    let reply = REPLY.get();
    // SAFETY: the core passes the place of a value; `reply_name` has stored a
    // variable there, and the reply is valid while REPLY names it.
    unsafe {
        let variable = param.as_ref().map_or(ptr::null_mut(), |param| param.pvn.u.dname);
        if reply.is_null() || variable.is_null() {
            return sys::pv_get_null(msg, param, value);
        }
        sys::pv_get_spec_value(reply, variable.cast(), value)
    }
}
