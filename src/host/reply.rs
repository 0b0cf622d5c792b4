//! Replies to the request in hand, and its packages' own handlers.

use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

use crate::error::Fault;
use crate::host::log::log_warn;
use crate::host::message::Message;
use crate::host::variables::{self, ShownSubscription};
use crate::host::{boundary, packages, state, sys, text, tm};
use crate::ports::{Incoming, PackageVerdict, Reply};
use crate::presence::event_package::PackageId;
use crate::presence::subscription::Snapshot;

/// Module `sl`'s functions.
struct Stateless(sys::sl_api_t);
// SAFETY: function pointers, filled once before the fork and only read.
unsafe impl Sync for Stateless {}
// SAFETY: function pointers, valid in every thread.
unsafe impl Send for Stateless {}

static STATELESS: OnceLock<Stateless> = OnceLock::new();

thread_local! {
    /// Whether a final reply went out, without a transaction, to the request
    /// in hand; the number is Kamailio's for the request.
    static REPLIED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Binds module `sl`; to be called in mod_init.
pub fn bind() -> Result<(), String> {
    let mut api = sys::sl_api_t::default();
    // SAFETY: fills the structure from the module's exports.
    if unsafe { sys::kshim_load_sl(&raw mut api) } < 0 {
        return Err("module sl is not loaded: add loadmodule \"sl.so\" before presence".into());
    }
    let mut callback = sys::sl_cbelem_t {
        type_: sys::SLCB_REPLY_READY,
        cbf: Some(on_stateless_reply),
        ..Default::default()
    };
    let registered = match api.register_cb {
        // SAFETY: sl copies the structure; mod_init is the time to register.
        Some(register) => unsafe { register(&raw mut callback) },
        None => -1,
    };
    if registered < 0 {
        return Err("module sl takes no callback".into());
    }
    STATELESS.set(Stateless(api)).map_err(|_| "module sl is bound twice".into())
}

unsafe extern "C" fn on_stateless_reply(event: *mut sys::sl_cbp_t) {
    boundary::enter("sl_reply", (), || {
        // SAFETY: sl passes a structure on its stack, with the request in it.
        let replied = unsafe {
            event.as_ref().filter(|event| event.code >= 200).and_then(|event| event.req.as_ref())
        };
        if let Some(request) = replied {
            REPLIED.set(Some(request.id));
        }
    });
}

/// The request in hand, as the presence logic answers it.
#[derive(Debug)]
pub struct Request<'a> {
    message: Message<'a>,
    /// Our To tags begin with this (`to_tag_pref`).
    to_tag_prefix: Option<&'static [u8]>,
}

impl<'a> Request<'a> {
    /// Around the message being routed.
    pub fn new(message: Message<'a>) -> Request<'a> {
        REPLIED.set(None);
        Request { message, to_tag_prefix: None }
    }

    /// Around the first SUBSCRIBE of a dialog.
    pub fn establishing(message: Message<'a>) -> Request<'a> {
        let prefix = state::config().and_then(|config| config.to_tag_prefix.as_deref());
        Request { to_tag_prefix: prefix, ..Request::new(message) }
    }

    /// Around a message whose handling broke off.
    pub fn resume(message: Message<'a>) -> Request<'a> {
        Request { message, to_tag_prefix: None }
    }

    /// Whether a final reply has been sent, by us or by a sibling.
    pub fn answered(&self) -> bool {
        // SAFETY: the message is valid while it is being routed.
        let id = unsafe { (*self.message.as_ptr()).id };
        tm::transaction_answered() || REPLIED.get() == Some(id)
    }

    /// Sends a reply with the headers that the message has collected and with
    /// those of `reply`; `tag` instead of the usual To tag.
    fn send(&mut self, reply: &Reply, tag: Option<&[u8]>) -> Result<(), Fault> {
        let msg = self.message.as_ptr();
        // A reason that ends with a zero is used as it is; others are copied.
        let reason = [reply.reason.as_bytes(), b"\0"].concat();
        let mut reason = text::lend(&reason);
        let code = i32::from(reply.code);
        let mut own_tag = text::lend(tag.unwrap_or_default());
        let api = STATELESS.get().map(|api| &api.0);
        let sent = with_headers(self.message, &reply.headers, || {
            match (api.and_then(|api| api.freply.zip(api.dreply)), tag) {
                // SAFETY: the message is being routed; reason and headers
                // outlive the call, which copies them into the reply.
                (Some((send, _)), None) => unsafe { send(msg, code, &raw mut reason) },
                // SAFETY: the message is being routed; reason, headers and tag
                // outlive the call, which copies them into the reply.
                (Some((_, send)), Some(_)) => unsafe {
                    send(msg, code, &raw mut reason, &raw mut own_tag)
                },
                (None, _) => -1,
            }
        });
        if sent >= 0 { Ok(()) } else { Err(Fault::Host) }
    }

    /// The header lines that the script has added to the reply.
    fn script_headers(&self) -> Vec<u8> {
        let mut headers = Vec::new();
        // SAFETY: the message is being routed; its list of reply headers stays
        // as it is during this function.
        let mut next = unsafe { (*self.message.as_ptr()).reply_lump };
        // SAFETY: the list's elements are the message's own; nobody adds or
        // removes one meanwhile.
        while let Some(lump) = unsafe { next.as_ref() } {
            if lump.flags & sys::LUMP_RPL_HDR as i32 != 0 {
                // SAFETY: a lump's text lives as long as the lump.
                headers.extend_from_slice(unsafe { text::bytes(lump.text) });
            }
            next = lump.next;
        }
        headers
    }

    fn check(
        &mut self,
        handler: Option<unsafe extern "C" fn(*mut sys::sip_msg) -> i32>,
    ) -> PackageVerdict {
        let Some(handler) = handler else { return PackageVerdict::Accepted };
        let verdict = with_content_length(self.message, |msg| {
            // SAFETY: the handler was registered for this and gets a message
            // whose headers are all parsed.
            unsafe { handler(msg) }
        });
        if verdict < 0 {
            PackageVerdict::Refused { replied: self.answered() }
        } else {
            PackageVerdict::Accepted
        }
    }
}

/// Runs `send` with these header lines among those that replies to the message
/// get, for this reply only: a later one of the script must not carry them. The
/// core would allocate for them; its list takes what is ours just as well.
fn with_headers<R>(message: Message<'_>, lines: &[u8], send: impl FnOnce() -> R) -> R {
    if lines.is_empty() {
        return send();
    }
    let flags = sys::LUMP_RPL_HDR | sys::LUMP_RPL_NODUP | sys::LUMP_RPL_NOFREE;
    let mut lump =
        sys::lump_rpl { flags: flags as i32, text: text::lend(lines), next: ptr::null_mut() };
    let linked = Linked { message, lump: &raw mut lump };
    // SAFETY: the message is being routed; its list of reply headers is this
    // process's. The new end of the list stays until `linked` is dropped.
    unsafe {
        let mut end = &raw mut (*message.as_ptr()).reply_lump;
        while let Some(lump) = (*end).as_mut() {
            end = &raw mut lump.next;
        }
        *end = linked.lump;
    }
    send()
}

/// A lump of ours in a message's list; it is taken out again when dropped.
struct Linked<'a> {
    message: Message<'a>,
    lump: *mut sys::lump_rpl,
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        // SAFETY: changes the list only, if the lump is in there.
        unsafe { sys::unlink_lump_rpl(self.message.as_ptr(), self.lump) };
    }
}

impl Incoming for Request<'_> {
    fn source(&self) -> &[u8] {
        self.message.source()
    }

    fn in_transaction(&mut self) -> bool {
        tm::in_transaction()
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        let tag = match self.to_tag_prefix {
            Some(_) if (200..300).contains(&reply.code) => Some(self.reply_to_tag()?),
            _ => None,
        };
        let sent = match &tag {
            Some(tag) if tm::in_transaction() => {
                // tm takes the headers from the request that it keeps, which
                // knows nothing of what the script has added since.
                let headers = [self.script_headers(), reply.headers.clone()].concat();
                tm::reply_with_tag(reply.code, reply.reason.as_bytes(), &headers, tag)
            }
            _ => self.send(reply, tag.as_deref()),
        };
        // Whoever refuses a request says so itself.
        if sent.is_err() && reply.code < 300 {
            log_warn!("reply {} {} could not be sent", reply.code, reply.reason);
        }
        sent
    }

    fn reply_to_tag(&mut self) -> Result<Vec<u8>, Fault> {
        let get = STATELESS.get().and_then(|api| api.0.get_reply_totag).ok_or(Fault::Host)?;
        let mut tag = sys::_str::default();
        // SAFETY: the message is being routed; the tag is in a static buffer
        // of sl or tm and is copied at once.
        let tag = unsafe {
            if get(self.message.as_ptr(), &raw mut tag) < 0 || tag.len <= 0 {
                return Err(Fault::Host);
            }
            text::bytes(tag)
        };
        // A retransmission gets the same tag again, with its prefix as well.
        Ok([self.to_tag_prefix.unwrap_or_default(), tag].concat())
    }

    fn shows_subscriptions(&self) -> bool {
        state::config().is_some_and(|config| config.pres_subs_mode)
    }

    fn accepted(&mut self, subscription: &Snapshot, initial: bool) {
        variables::set_subscription(ShownSubscription::accepted(subscription, initial));
    }

    fn check_publication(&mut self, package: PackageId) -> PackageVerdict {
        self.check(packages::handlers(package).publication)
    }

    fn check_subscription(&mut self, package: PackageId) -> PackageVerdict {
        self.check(packages::handlers(package).subscription)
    }
}

/// The To tag that replies to this request carry, in a static buffer of sl or
/// tm that stays until the next one is made.
pub fn to_tag(message: Message<'_>) -> Result<sys::_str, Fault> {
    let get = STATELESS.get().and_then(|api| api.0.get_reply_totag).ok_or(Fault::Host)?;
    let mut tag = sys::_str::default();
    // SAFETY: the message is being routed.
    if unsafe { get(message.as_ptr(), &raw mut tag) } < 0 || tag.len <= 0 {
        return Err(Fault::Host);
    }
    Ok(tag)
}

/// Siblings take the body's length from the Content-Length header without
/// asking whether there is one (it may be absent over UDP). Lends the message
/// one for the duration of their call; it is not in the list of headers, so
/// nothing clones or frees it.
fn with_content_length<R>(message: Message<'_>, call: impl FnOnce(*mut sys::sip_msg) -> R) -> R {
    let msg = message.as_ptr();
    // SAFETY: the message is valid and we are the only ones who use it now.
    if unsafe { !(*msg).content_length.is_null() } {
        return call(msg);
    }
    let mut field = sys::hdr_field {
        type_: sys::_hdr_types_t_HDR_CONTENTLENGTH_T,
        // The parser stores the number in the place of the pointer.
        parsed: std::ptr::without_provenance_mut(message.body_length()),
        ..Default::default()
    };
    // SAFETY: the message is valid and we are the only ones who use it now;
    // `field` outlives the call and is taken away after it.
    unsafe { (*msg).content_length = &raw mut field };
    let result = call(msg);
    // SAFETY: the message is still valid, and nothing else points to `field`.
    unsafe { (*msg).content_length = std::ptr::null_mut() };
    result
}
