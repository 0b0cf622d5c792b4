//! NOTIFY requests within dialogs, sent through module `tm`.

mod dialog;

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use crate::error::Fault;
use crate::host::log::{self, Printable, log_debug};
use crate::host::notified_subscription::NotifiedSubscription;
use crate::host::tm::dialog::Dialog;
use crate::host::{boundary, sys, text, variables};
use crate::ports::{Notify, NotifyOutcome, Transport};
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::measures::StateShown;
use crate::presence::next_hop::{DATAGRAM, Way};
use crate::presence::subscription::{Snapshot, Text};

/// What tm answers when it has no memory for a transaction: `E_OUT_OF_MEM`.
const NO_MEMORY: c_int = -2;

/// What it answers for any other reason: `E_UNSPEC`.
const UNSPECIFIED: c_int = -1;

/// Bytes of a NOTIFY besides what the subscription has: names of headers, Via,
/// User-Agent.
const OVERHEAD: usize = 320;

/// Bytes of a transaction, besides the message.
const TRANSACTION: usize = 16 * 1024;

/// Shared memory that was free before anything was stored: there is never more.
static FREE_AT_START: OnceLock<usize> = OnceLock::new();

/// Module `tm`'s functions.
struct Transactions(sys::tm_binds);
// SAFETY: function pointers and addresses in tm, filled once before the fork.
unsafe impl Sync for Transactions {}
// SAFETY: function pointers and addresses in tm, valid in every thread; see
// `Sync`.
unsafe impl Send for Transactions {}

/// What became of a NOTIFY, while the transaction still exists.
pub struct Completion<'a> {
    /// The token that was given with the NOTIFY.
    pub token: u64,
    /// Status code of the final reply; 408 also when there was none.
    pub code: i32,
    /// Whether the reply, if it is no success, has a Retry-After header.
    pub retry_after: bool,
    /// The subscription as of the NOTIFY, where it was kept.
    pub subscription: Option<Snapshot>,
    /// The package of its subscription, and the state that it showed.
    pub package: PackageId,
    /// What it said of its subscription.
    pub shown: StateShown,
    /// tm's view, for the event route and `$notify_reply`.
    pub raw: &'a sys::tmcb_params,
    /// tm's transaction, valid during the call.
    pub transaction: *mut sys::cell,
}

impl Completion<'_> {
    /// CSeq of the NOTIFY; 0 if it cannot be told.
    pub fn cseq(&self) -> CSeq {
        if let Some(subscription) = &self.subscription {
            return subscription.local_cseq;
        }
        if self.transaction.is_null() {
            return CSeq(0);
        }
        // SAFETY: tm's transaction is valid during the call, and its texts with it.
        let header = unsafe { text::bytes(sys::kshim_transaction_cseq(self.transaction)) };
        let digits = header.iter().filter(|byte| byte.is_ascii_digit());
        let add = |sum: u32, digit: &u8| sum.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
        CSeq(digits.fold(0, add))
    }
}

/// What NOTIFYs are to come to, given when the module is bound.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Called once for every NOTIFY that was [`NotifyOutcome::Sent`], in whichever
    /// process saw the reply or the time-out.
    pub completed: fn(&Completion<'_>),
    /// Each NOTIFY's subscription is to be kept until then.
    pub keeps_subscriptions: fn() -> bool,
}

impl Completion<'_> {
    /// Somebody has sent the answer: tm has not made it itself.
    pub fn is_received(&self) -> bool {
        // All ones stand for a reply that tm has made itself.
        !self.raw.rpl.is_null() && self.raw.rpl.addr() != usize::MAX
    }
}

static TRANSACTIONS: OnceLock<Transactions> = OnceLock::new();
static HOOKS: OnceLock<Hooks> = OnceLock::new();

fn keeps_subscriptions() -> bool {
    HOOKS.get().is_some_and(|hooks| (hooks.keeps_subscriptions)())
}

/// Binds module `tm`; to be called in mod_init.
pub fn bind(hooks: Hooks) -> Result<(), String> {
    let mut api = Box::<sys::tm_binds>::default();
    // SAFETY: fills the structure from the module's exports.
    if unsafe { sys::kshim_load_tm(&raw mut *api) } < 0 {
        return Err("module tm is not loaded: add loadmodule \"tm.so\" before presence".into());
    }
    // SAFETY: asks the allocator for a number.
    let free = unsafe { sys::kshim_shm_available() };
    let _ = FREE_AT_START.set(usize::try_from(free).unwrap_or(usize::MAX));
    HOOKS.set(hooks).map_err(|_| "module tm is bound twice")?;
    TRANSACTIONS.set(Transactions(*api)).map_err(|_| "module tm is bound twice".into())
}

/// The transaction of the request being routed, if the script made one.
fn transaction() -> Option<*mut sys::cell> {
    let get = TRANSACTIONS.get()?.0.t_gett?;
    // SAFETY: reads tm's own state of this process.
    let transaction = unsafe { get() };
    // All ones: nobody has asked yet whether there is one.
    (!transaction.is_null() && transaction.addr() != usize::MAX).then_some(transaction)
}

/// Whether the script made a transaction for the request being routed.
pub fn in_transaction() -> bool {
    transaction().is_some()
}

/// Whether the request being routed has a transaction that was answered.
pub fn transaction_answered() -> bool {
    // SAFETY: this process holds a reference to the transaction that it routes.
    transaction().is_some_and(|transaction| unsafe { (*transaction).uas.status >= 200 })
}

/// tm's function that sends a request within a dialog.
type RequestWithin = unsafe extern "C" fn(*mut sys::uac_req_t) -> c_int;

/// Gives tm a NOTIFY of so many bytes, a second time if it was only short of memory.
/// Gives what tm says.
fn request(send: RequestWithin, notify: &Notify<'_>, dialog: &mut Dialog, bytes: usize) -> c_int {
    let subscription = notify.subscription;
    let mut method = text::lend(b"NOTIFY");
    let mut headers = text::lend(notify.headers);
    let mut body = text::lend(notify.body);
    // The script sees the subscription when the answer comes. Without
    // memory for a copy it sees none; the token always arrives.
    let kept = keeps_subscriptions().then(|| NotifiedSubscription::new(notify)).flatten();
    let mut request = sys::uac_req_t {
        method: &raw mut method,
        headers: &raw mut headers,
        body: if notify.body.is_empty() { ptr::null_mut() } else { &raw mut body },
        dialog: &raw mut dialog.raw,
        cb_flags: sys::TMCB_LOCAL_COMPLETED as _,
        cb: Some(callbacks(notify).0),
        // The token travels in the pointer itself: nothing to free.
        cbp: ptr::without_provenance_mut(notify.token as usize),
        ..Default::default()
    };
    if let Some(kept) = &kept {
        request.cb = Some(callbacks(notify).1);
        request.cbp = kept.as_ptr();
    }
    let shown = variables::show(variables::ShownSubscription::notified(subscription, notify.cseq));
    // SAFETY: all that the request points to lives on this stack and the caller's
    // until the call returns; tm copies what it keeps.
    let mut result = unsafe { send(&raw mut request) };
    if result == NO_MEMORY && has_room(bytes) && !Dialog::is_gone(dialog.way(subscription)) {
        // There is memory now: it has come back, or something else is wrong.
        dialog.raw.loc_seq.value = notify.cseq.wrapping_sub(1).0;
        // SAFETY: the request still points to what lives on these stacks; the
        // failed try has kept nothing of it.
        result = unsafe { send(&raw mut request) };
    }
    drop(shown);
    if result > 0
        && let Some(kept) = kept
    {
        kept.hand_over();
    }
    result
}

/// Sends NOTIFYs through tm.
#[derive(Debug, Default)]
pub struct TmTransport;

impl Transport for TmTransport {
    fn notify(&mut self, notify: &Notify<'_>) -> NotifyOutcome {
        let subscription = notify.subscription;
        let call_id = Printable(subscription.text(Text::CallId));
        let Some(send) = TRANSACTIONS.get().and_then(|api| api.0.t_request_within) else {
            return NotifyOutcome::Failed;
        };
        let Some(mut dialog) = Dialog::new(subscription, notify.cseq) else {
            log_debug!("NOTIFY for {call_id}: the route set cannot be parsed");
            return NotifyOutcome::Failed;
        };
        let way = dialog.way(subscription);
        if Dialog::is_gone(way) {
            return NotifyOutcome::Gone;
        }
        let bytes = size(notify);
        let fits = bytes <= FREE_AT_START.get().copied().unwrap_or(usize::MAX)
            && (bytes <= DATAGRAM || way != Way::Datagram);
        if !fits && !notify.body.is_empty() {
            return NotifyOutcome::TooLarge;
        }
        let result = request(send, notify, &mut dialog, bytes);
        if result < 0 && Dialog::is_gone(dialog.way(subscription)) {
            // It was closed meanwhile.
            return NotifyOutcome::Gone;
        }
        if result < 0 {
            // tm says so for want of memory, but also of a Via that it cannot make;
            // without memory for its own copy it says that it does not know.
            let no_memory = matches!(result, NO_MEMORY | UNSPECIFIED) && !has_room(bytes);
            return if no_memory { NotifyOutcome::NoMemory } else { NotifyOutcome::Failed };
        }
        if log::local_enabled() {
            dialog.log(subscription, notify);
        }
        // tm answers 0 when event_route[tm:local-request] dropped the request:
        // then there is no transaction and no callback.
        if result == 0 { NotifyOutcome::Dropped } else { NotifyOutcome::Sent }
    }
}

/// Bytes of a NOTIFY, rather too many than too few.
fn size(notify: &Notify<'_>) -> usize {
    let document = notify.body.len() + notify.headers.len();
    if document < DATAGRAM / 2 {
        // It fits anyway.
        return document + OVERHEAD;
    }
    let of = |field| notify.subscription.text(field).len();
    let once = [Text::FromTag, Text::ToTag, Text::CallId, Text::RecordRoute, Text::Contact];
    let names = [Text::FromUser, Text::FromHost, Text::ToUser, Text::ToHost];
    let dialog: usize = once.into_iter().chain(names).map(of).sum();
    document + dialog + OVERHEAD
}

/// There is memory for a NOTIFY of so many bytes, shared and of this process.
fn has_room(bytes: usize) -> bool {
    // SAFETY: blocks that nobody else sees are taken and given back at once.
    unsafe {
        let shared = sys::kshim_shm_malloc(bytes + TRANSACTION);
        let private = sys::kshim_pkg_malloc(OVERHEAD * 4);
        let has_both = !shared.is_null() && !private.is_null();
        if !shared.is_null() {
            sys::kshim_shm_free(shared);
        }
        if !private.is_null() {
            sys::kshim_pkg_free(private);
        }
        has_both
    }
}

unsafe extern "C" fn on_completed<const LABEL: usize>(
    transaction: *mut sys::cell,
    _kind: c_int,
    params: *mut sys::tmcb_params,
) {
    boundary::enter("notify_reply", (), || {
        // SAFETY: tm passes a structure on its stack, with our parameter.
        unsafe {
            complete(LABEL, transaction, params, |parameter| (parameter.addr() as u64, None));
        };
    });
}

unsafe extern "C" fn on_completed_kept<const LABEL: usize>(
    transaction: *mut sys::cell,
    _kind: c_int,
    params: *mut sys::tmcb_params,
) {
    boundary::enter("notify_reply", (), || {
        // SAFETY: tm passes a structure on its stack, with our parameter. The
        // block was handed over with this callback, which tm calls once: it is
        // freed here.
        unsafe {
            complete(LABEL, transaction, params, |parameter| {
                let kept = NotifiedSubscription::take_back(parameter).map(|kept| kept.read());
                kept.map_or((0, None), |(token, subscription)| (token, Some(subscription)))
            });
        }
    });
}

/// # Safety
/// `params` is what tm passes to a callback.
unsafe fn complete(
    label: usize,
    transaction: *mut sys::cell,
    params: *mut sys::tmcb_params,
    read: impl FnOnce(*mut c_void) -> (u64, Option<Snapshot>),
) {
    // SAFETY: tm passes a structure that stays during the callback; `param` is
    // the address of the pointer that carries our parameter.
    let (Some(raw), Some(hooks)) = (unsafe { params.as_ref() }, HOOKS.get()) else { return };
    // SAFETY: `param` is the address of a pointer in tm's callback record, or
    // NULL.
    let parameter = unsafe { raw.param.as_ref() }.map_or(ptr::null_mut(), |p| *p);
    let (token, subscription) = read(parameter);
    (hooks.completed)(&Completion {
        token,
        code: raw.code,
        // Looking for it makes the core parse, and allocate for, each header:
        // only where it can matter.
        retry_after: raw.code >= 300 && has_retry_after(raw.rpl),
        subscription,
        package: PackageId((label / StateShown::ALL.len()) as u16),
        shown: StateShown::ALL
            .get(label % StateShown::ALL.len())
            .copied()
            .unwrap_or(StateShown::Active),
        raw,
        transaction,
    });
}

/// What tm calls; which of many it is says what cannot be told with the token: the
/// package, and the state that was shown.
type Callback = unsafe extern "C" fn(*mut sys::cell, c_int, *mut sys::tmcb_params);

/// For a package and each state.
macro_rules! of_packages {
    ($($package:literal)*) => {
        [$([
            (on_completed::<{ $package * 3 }>, on_completed_kept::<{ $package * 3 }>),
            (on_completed::<{ $package * 3 + 1 }>, on_completed_kept::<{ $package * 3 + 1 }>),
            (on_completed::<{ $package * 3 + 2 }>, on_completed_kept::<{ $package * 3 + 2 }>),
        ]),*]
    };
}

/// The last one is that of all packages after it.
const CALLBACKS: [[(Callback, Callback); StateShown::ALL.len()]; 24] =
    of_packages!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);

/// The callbacks of a NOTIFY, without and with a copy of its subscription.
fn callbacks(notify: &Notify<'_>) -> (Callback, Callback) {
    let of = CALLBACKS.get(usize::from(notify.subscription.package.0));
    let shown = StateShown::of(notify.subscription.status) as usize;
    let [.., last] = &CALLBACKS;
    of.unwrap_or(last).get(shown).copied().unwrap_or(last[0])
}

/// Answers the request being routed through its transaction, with a To tag of
/// our own. `headers` are all that the reply gets.
pub fn reply_with_tag(code: u16, reason: &[u8], headers: &[u8], tag: &[u8]) -> Result<(), Fault> {
    let api = TRANSACTIONS.get().ok_or(Fault::Host)?;
    let (lookup, send) = api.0.t_lookup_ident.zip(api.0.t_reply_with_body).ok_or(Fault::Host)?;
    let transaction = transaction().ok_or(Fault::Host)?;
    let mut referred = ptr::null_mut();
    // t_reply_with_body gives a reference up, so it needs one of its own. If
    // it fails for want of memory it keeps it, and the transaction stays.
    // SAFETY: this process holds a reference to the transaction that it routes
    // and makes it its current one again.
    unsafe {
        if lookup(&raw mut referred, (*transaction).hash_index, (*transaction).label) < 0 {
            return Err(Fault::Host);
        }
    }
    let mut reason = text::lend(reason);
    let mut headers = text::lend(headers);
    let mut tag = text::lend(tag);
    let mut body = sys::_str::default();
    // SAFETY: all strings outlive the call, which copies what it keeps.
    let sent = unsafe {
        send(
            referred,
            u32::from(code),
            &raw mut reason,
            &raw mut body,
            &raw mut headers,
            &raw mut tag,
        )
    };
    if sent < 0 { Err(Fault::Host) } else { Ok(()) }
}

fn has_retry_after(reply: *mut sys::sip_msg) -> bool {
    // tm passes all ones for a reply that it made itself.
    if reply.is_null() || reply.addr() == usize::MAX {
        return false;
    }
    // SAFETY: a received reply is valid during the callback; parsing only
    // completes it, and its headers live as long as it does.
    unsafe {
        if sys::kshim_parse_headers(reply) < 0 {
            return false;
        }
        let mut field = (*reply).headers;
        while let Some(header) = field.as_ref() {
            if header.type_ == sys::_hdr_types_t_HDR_RETRY_AFTER_T {
                return true;
            }
            field = header.next;
        }
    }
    false
}
