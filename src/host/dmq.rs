//! Module `dmq`: messages to and from other servers. Only our replicator process
//! sends, for dmq keeps its list of nodes locked meanwhile; what dmq calls us for
//! may come while it has that lock, and does no more than note something.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use once_cell::sync::OnceCell;

use crate::error::Fault;
use crate::host::message::Message;
use crate::host::reply_event::Parsed;
use crate::host::worker::Worker;
use crate::host::{boundary, packages, state, sys, text};
use crate::ports::{Dispatch, Host, PackageVerdict};
use crate::presence::event_package::PackageId;
use crate::service::replication::{Received, receive};
use crate::store::replication::{Peers, count};

/// What dmq has given us.
struct Dmq {
    functions: sys::dmq_api_t,
    peer: *mut sys::dmq_peer_t,
}
// SAFETY: function pointers of dmq, and its record of us in shared memory; both
// stay while the server runs and are not changed after mod_init.
unsafe impl Sync for Dmq {}
// SAFETY: valid in every thread; see `Sync`.
unsafe impl Send for Dmq {}

static DMQ: OnceCell<Dmq> = OnceCell::new();

type Bind = unsafe extern "C" fn(*mut sys::dmq_api_t) -> c_int;

/// Binds dmq and registers us there under this name; to be called in mod_init.
/// Gives our own address as other nodes know it: `sip:host:port`.
pub fn bind(peer_id: &[u8]) -> Result<Vec<u8>, String> {
    const ABSENT: &str = "enable_dmq is set, and module dmq is not loaded before presence";
    let mut functions = sys::dmq_api_t::default();
    // SAFETY: looks a static name up. What dmq exports under it has the type of
    // `bind_dmq_f` in all releases; it fills the structure.
    let bound = unsafe {
        let found = sys::find_export(c"bind_dmq".as_ptr().cast_mut(), 0, 0).ok_or(ABSENT)?;
        let bind = std::mem::transmute::<
            unsafe extern "C" fn(*mut sys::sip_msg, *mut c_char, *mut c_char) -> c_int,
            Bind,
        >(found);
        bind(&raw mut functions)
    };
    if bound < 0 {
        return Err("module dmq cannot be bound".into());
    }
    let own = own_address().ok_or("module dmq has no server_address")?;
    // All zero: stock leaves the link of dmq's list undefined.
    let mut peer = sys::dmq_peer_t {
        peer_id: text::lend(peer_id),
        description: text::lend(b"presence"),
        callback: Some(on_message),
        init_callback: Some(on_init),
        ..Default::default()
    };
    let register = functions.register_dmq_peer.ok_or(ABSENT)?;
    // SAFETY: dmq copies the structure and its texts into shared memory.
    let peer = unsafe { register(&raw mut peer) };
    if peer.is_null() {
        return Err(format!(
            "module dmq does not take us as {}: it is not initialised, or the name is taken",
            peer_id.escape_ascii()
        ));
    }
    DMQ.set(Dmq { functions, peer }).map_err(|_| "dmq is bound twice")?;
    Ok(own)
}

/// `server_address` of dmq.
fn own_address() -> Option<Vec<u8>> {
    let mut kind: sys::modparam_t = 0;
    // SAFETY: static names; a parameter of this type is a `str` of the module's.
    let address = unsafe {
        let module = sys::find_module_by_name(c"dmq".as_ptr().cast_mut());
        if module.is_null() {
            return None;
        }
        let name = c"server_address".as_ptr().cast_mut();
        let found = sys::find_param_export(module, name, sys::PARAM_STR, &raw mut kind);
        text::pointed(found.cast::<sys::_str>())?
    };
    node_of_uri(address)
}

/// The node that a URI names: `sip:host:port`, with a transport that is not UDP.
fn node_of_uri(uri: &[u8]) -> Option<Vec<u8>> {
    let mut parsed = sys::sip_uri::default();
    let lent = text::lend(uri);
    // SAFETY: reads the URI's bytes, writes to `parsed` only.
    let is_parsed =
        !uri.is_empty() && unsafe { sys::parse_uri(lent.s, lent.len, &raw mut parsed) } == 0;
    // SAFETY: the parts point into `uri`.
    is_parsed.then(|| unsafe { node_text(&parsed) })
}

/// # Safety
/// The parts of the URI live during the call.
unsafe fn node_text(uri: &sys::sip_uri) -> Vec<u8> {
    // SAFETY: see above.
    let (host, port) = unsafe { (text::bytes(uri.host), text::bytes(uri.port)) };
    let mut node = b"sip:".to_vec();
    node.extend_from_slice(host);
    if !port.is_empty() {
        node.push(b':');
        node.extend_from_slice(port);
    }
    let transport = match u32::from(uri.proto) {
        sys::sip_protos_PROTO_TCP => &b";transport=tcp"[..],
        sys::sip_protos_PROTO_TLS => b";transport=tls",
        sys::sip_protos_PROTO_SCTP => b";transport=sctp",
        sys::sip_protos_PROTO_WS => b";transport=ws",
        sys::sip_protos_PROTO_WSS => b";transport=wss",
        _ => b"",
    };
    node.extend_from_slice(transport);
    node
}

/// dmq has found the first other node; perhaps with its lock in hand.
unsafe extern "C" fn on_init() -> c_int {
    boundary::enter("dmq_init", 0, || {
        if let Some(replication) = state::server().and_then(|server| server.store.replication()) {
            replication.ask_all();
            state::wake_replicator();
        }
        0
    })
}

/// A message to a node was answered, or was not: `code` says so.
unsafe extern "C" fn on_answer(
    _reply: *mut sys::sip_msg,
    code: c_int,
    node: *mut sys::dmq_node,
    is_stored: *mut c_void,
) -> c_int {
    boundary::enter("dmq_answer", 0, || {
        let replication = state::server().and_then(|server| server.store.replication());
        // SAFETY: dmq passes its own copy of the node, valid during the call.
        let uri = unsafe { node.as_ref().map(|node| node_text(&node.uri)) };
        if let (Some(replication), Some(uri)) = (replication, uri) {
            let now = Worker::default().milliseconds();
            let is_stored = !is_stored.is_null();
            let is_back = |peers: &mut Peers| match code {
                // A message that was refused has arrived.
                ..300 | 400 => peers.answered(&uri, true, is_stored, now),
                408 => peers.answered(&uri, false, is_stored, now),
                _ => peers.failed(&uri, is_stored, now),
            };
            if code == 408 {
                count(&replication.counts.unanswered);
            }
            if replication.peers(is_back) || is_stored {
                state::wake_replicator();
            }
        }
        0
    })
}

/// A message has come: in a process of dmq's, on a copy whose headers must not be
/// parsed again, or in a SIP worker.
unsafe extern "C" fn on_message(
    msg: *mut sys::sip_msg,
    answer: *mut sys::peer_reponse_t,
    node: *mut sys::dmq_node_t,
) -> c_int {
    // SAFETY: dmq passes a structure of its own that it reads afterwards.
    let Some(answer) = (unsafe { answer.as_mut() }) else { return -1 };
    // What is said should we fail.
    (answer.resp_code, answer.reason) = (500, text::lend(b"Server Internal Error"));
    let code = boundary::enter("dmq_message", 500, || {
        let Some(server) = state::server() else { return 500 };
        // SAFETY: dmq keeps the message during the call, with all headers parsed,
        // or it is the request that this process is routing.
        let Some(message) = (unsafe { Message::new(msg) }) else { return 500 };
        let Ok([body, content_type, from]) = message.peer_message() else { return 400 };
        // SAFETY: dmq's list of nodes is in shared memory; the text is copied at
        // once. (Of a sender that is not in it there is none.)
        let known = unsafe { node.as_ref().map(|node| node_text(&node.uri)) };
        let Some(from) = node_of_uri(from) else { return 400 };
        // A worker of 5.6 may still have the node of an earlier message.
        let is_member = known.is_some_and(|known| known == from);
        let mut host = Worker::default();
        let received = Received { message: body, content_type, from: &from, is_member };
        receive(server, &mut host, &received)
    });
    let reason: &[u8] = match code {
        200 => b"OK",
        400 => b"Bad Request",
        _ => b"Server Internal Error",
    };
    (answer.resp_code, answer.reason) = (c_int::from(code), text::lend(reason));
    0
}

/// Hands a message to dmq.
pub fn dispatch(dispatch: &Dispatch<'_>) -> Result<(), Fault> {
    let dmq = DMQ.get().ok_or(Fault::Host)?;
    let (mut message, mut kind) = (text::lend(dispatch.message), text::lend(dispatch.content_type));
    let mark = if dispatch.is_stored { c"stored".as_ptr() } else { ptr::null() };
    let mut answer = sys::dmq_resp_cback_t { f: Some(on_answer), param: mark.cast_mut().cast() };
    // SAFETY: dmq copies what it needs of these, which live during the call. Its
    // node stays in its list but for the moment in which it deletes one: it is
    // used at once. Nothing of ours is locked.
    let sent = unsafe {
        match dispatch.to {
            None => {
                let send = dmq.functions.bcast_message.ok_or(Fault::Host)?;
                let all = ptr::null_mut();
                send(dmq.peer, &raw mut message, all, &raw mut answer, 1, &raw mut kind)
            }
            Some(to) => {
                let find = dmq.functions.find_dmq_node_uri.ok_or(Fault::Host)?;
                let mut to = text::lend(to);
                let node = find(&raw mut to);
                if node.is_null() {
                    return Err(Fault::Host);
                }
                let send = dmq.functions.send_message.ok_or(Fault::Host)?;
                send(dmq.peer, &raw mut message, node, &raw mut answer, 1, &raw mut kind)
            }
        }
    };
    if sent < 0 { Err(Fault::Host) } else { Ok(()) }
}

/// Lets the package inspect a document as if it were published (`evs_publ_handl`
/// gets a request): in a PUBLISH that is never answered.
pub fn check_document(package: PackageId, document: &[u8]) -> PackageVerdict {
    let Some(handler) = packages::handlers(package).publication else {
        return PackageVerdict::Accepted;
    };
    let mut request = format!(
        "PUBLISH sip:peer@invalid SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKp\r\n\
         From: <sip:peer@invalid>;tag=p\r\nTo: <sip:peer@invalid>\r\nCall-ID: peer\r\n\
         CSeq: 1 PUBLISH\r\nContent-Length: {}\r\n\r\n",
        document.len()
    )
    .into_bytes();
    request.extend_from_slice(document);
    let length = c_int::try_from(request.len()).unwrap_or(0);
    // Siblings read a little beyond the body where they take it for a C string.
    request.push(0);
    // SAFETY: the text stays until the message is dropped, at the end of this.
    let Some(mut message) = (unsafe { Parsed::new(request.as_mut_ptr().cast(), length) }) else {
        return PackageVerdict::Refused { replied: false };
    };
    let msg = message.as_mut_ptr();
    // SAFETY: the message is ours and complete; the flag keeps the host from
    // answering it. The handler was registered for such requests.
    let verdict = unsafe {
        sys::kshim_never_reply(msg);
        if sys::kshim_parse_headers(msg) != 0 {
            return PackageVerdict::Refused { replied: false };
        }
        handler(msg)
    };
    match verdict {
        0.. => PackageVerdict::Accepted,
        _ => PackageVerdict::Refused { replied: false },
    }
}
