//! event_route[presence:notify-reply]: runs for the final answer to every
//! NOTIFY, and for its time-out.

use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

use crate::config::Config;
use crate::host::log::log_error;
use crate::host::tm::Completion;
use crate::host::variables::{self, ShownSubscription};
use crate::host::{state, sys};
use crate::service::subscriptions::keeping;

/// The route's number, if the script has it.
static ROUTE: OnceLock<Option<usize>> = OnceLock::new();

/// Looks for the route; to be called in mod_init, when the script is read.
pub fn find() {
    let name = c"presence:notify-reply";
    // SAFETY: the table of routes is complete and does not change any more;
    // the name is only read.
    let found = unsafe {
        let table = &raw mut sys::event_rt;
        let at = sys::route_lookup(table, name.as_ptr().cast_mut());
        // A number without statements: the script only mentions the route.
        usize::try_from(at).ok().filter(|at| !(*(*table).rlist.add(*at)).is_null())
    };
    let _ = ROUTE.set(found);
}

fn route() -> Option<usize> {
    ROUTE.get().copied().flatten()
}

/// The subscription is kept with each NOTIFY, as it is when that is sent: the
/// script will ask for it, or the row of the database is to be found by it.
pub fn keeps_subscriptions() -> bool {
    state::config()
        .is_some_and(|config| !keeping(config).has_records || shows_subscriptions(config))
}

fn shows_subscriptions(config: &Config) -> bool {
    route().is_some() && config.pres_subs_mode
}

/// A message that was made of text by the core's parser, to be freed by it.
pub(super) struct Parsed(Box<sys::sip_msg>);

impl Parsed {
    /// Parses `length` bytes at `text`.
    ///
    /// # Safety
    /// They stay in place while the result lives.
    pub(super) unsafe fn new(text: *mut c_char, length: c_int) -> Option<Parsed> {
        let mut message = Parsed(Box::default());
        // SAFETY: the text has `length` bytes and stays while the message lives;
        // the core's parser fills the structure, which was all zero.
        let result = unsafe {
            sys::build_sip_msg_from_buf(&raw mut *message.0, text, length, sys::inc_msg_no())
        };
        (result >= 0).then_some(message)
    }

    /// The message.
    pub(super) fn as_mut_ptr(&mut self) -> *mut sys::sip_msg {
        &raw mut *self.0
    }
}

impl Drop for Parsed {
    fn drop(&mut self) {
        // SAFETY: the core frees what its parser has added; the text and the
        // structure itself are ours.
        unsafe { sys::free_sip_msg(&raw mut *self.0) };
    }
}

/// Runs the route for an answered NOTIFY, if there is one.
pub fn run(completion: &Completion<'_>) {
    let Some(at) = route() else { return };
    // SAFETY: tm calls back with its transaction, whose one branch keeps the
    // request as it was sent.
    let request = unsafe {
        completion.transaction.as_ref().and_then(|cell| cell.uac.as_ref()).map(|uac| &uac.request)
    };
    let Some(request) = request.filter(|request| !request.buffer.is_null()) else { return };
    // SAFETY: the buffer lives as long as the transaction, beyond this call.
    let Some(mut notify) = (unsafe { Parsed::new(request.buffer, request.buffer_len) }) else {
        log_error!("event_route[presence:notify-reply]: the sent NOTIFY cannot be parsed");
        return;
    };
    let reply = completion.raw.rpl;
    // As in the stock module a 408 is always shown as a time-out. All ones
    // stand for a reply that tm has made itself.
    let received = completion.code != 408 && !reply.is_null() && reply.addr() != usize::MAX;
    let mut substitute = (!received).then(|| timed_out(completion.code));
    let mut parsed = match &mut substitute {
        // SAFETY: the text lives until the end of this function.
        Some(text) => unsafe {
            Parsed::new(text.as_mut_ptr().cast(), c_int::try_from(text.len()).unwrap_or(0))
        },
        None => None,
    };
    let reply = match (&mut parsed, received) {
        (Some(message), _) => &raw mut *message.0,
        (None, true) => reply,
        (None, false) => ptr::null_mut(),
    };
    let shown = completion.subscription.as_ref().and_then(|subscription| {
        ShownSubscription::notified(subscription, subscription.local_cseq)
    });
    let _subscription = variables::show(shown);
    // SAFETY: either message is valid until the end of this function.
    let _reply = unsafe { variables::show_reply(reply) };
    // SAFETY: the route exists, and the message is complete; tm has set the
    // transaction's variables for its callbacks.
    unsafe {
        let before = sys::kshim_set_route_type(sys::LOCAL_ROUTE as c_int);
        let table = &raw const sys::event_rt;
        sys::run_top_route(*(*table).rlist.add(at), &raw mut *notify.0, ptr::null_mut());
        sys::kshim_set_route_type(before);
    }
}

/// What the script sees in the place of a reply that never came.
fn timed_out(code: i32) -> Vec<u8> {
    format!(
        "SIP/2.0 {code} TIMEOUT\r\nVia: SIP/2.0/UDP 127.0.0.1\r\nFrom: invalid;\r\nTo: invalid\r\n\
         Call-ID: invalid\r\nCSeq: 1 TIMEOUT\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}
