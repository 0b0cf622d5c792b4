//! A subscription's dialog as `tm` wants it described.

use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr;

use crate::host::log::{self, Printable};
use crate::host::{sys, text};
use crate::ports::Notify;
use crate::presence::cseq::CSeq;
use crate::presence::name_addr::{self, NameAddr};
use crate::presence::next_hop::{self, Way};
use crate::presence::subscription::{Snapshot, Text};
use crate::presence::uri::presentity_uri;

/// tm's description of a dialog, with the strings that it points to.
pub(super) struct Dialog {
    pub(super) raw: sys::dlg_t,
    local: Vec<u8>,
    remote: Vec<u8>,
    /// The route set, where it is plain; else tm's parser has made it.
    routes: Vec<sys::rr_t>,
}

impl Dialog {
    pub(super) fn new(subscription: &Snapshot, cseq: CSeq) -> Option<Box<Dialog>> {
        let get = |field| subscription.text(field);
        let mut dialog = Box::new(Dialog {
            raw: sys::dlg_t::default(),
            local: presentity_uri(get(Text::ToUser), get(Text::ToHost)),
            remote: presentity_uri(get(Text::FromUser), get(Text::FromHost)),
            routes: Vec::new(),
        });
        let raw = &mut dialog.raw;
        // tm counts up before it sends.
        raw.loc_seq.value = cseq.wrapping_sub(1).0;
        raw.loc_seq.is_set = 1;
        raw.id.call_id = text::lend(get(Text::CallId));
        raw.id.rem_tag = text::lend(get(Text::FromTag));
        raw.id.loc_tag = text::lend(get(Text::ToTag));
        raw.loc_uri = text::lend(&dialog.local);
        raw.rem_uri = text::lend(&dialog.remote);
        raw.rem_target = match get(Text::Contact) {
            [] => raw.rem_uri,
            contact => text::lend(contact),
        };
        raw.state = sys::dlg_state_DLG_CONFIRMED;
        raw.send_sock = socket(get(Text::Socket));
        let route = get(Text::RecordRoute);
        if !route.is_empty() {
            match name_addr::list(route) {
                Some(plain) => dialog.link(&plain),
                None => dialog.parse(route)?,
            }
        }
        Some(dialog)
    }

    /// Makes plain addresses the route set.
    fn link(&mut self, plain: &[NameAddr<'_>]) {
        self.routes.extend(plain.iter().map(|address| sys::rr_t {
            nameaddr: sys::name_addr_t {
                // An empty display name, which begins where the address does.
                name: sys::_str { len: 0, ..text::lend(address.whole) },
                uri: text::lend(address.uri),
                len: i32::try_from(address.bracketed()).unwrap_or(i32::MAX),
            },
            len: text::lend(address.whole).len,
            ..Default::default()
        }));
        let mut next = ptr::null_mut();
        for route in self.routes.iter_mut().rev() {
            route.next = next;
            next = route;
        }
        self.raw.route_set = next;
    }

    /// Has the core parse the route set; `None` if it cannot.
    fn parse(&mut self, route: &[u8]) -> Option<()> {
        let route = text::lend(route);
        // SAFETY: the routes point into the subscription's text, which
        // outlives the dialog.
        if unsafe { sys::parse_rr_body(route.s, route.len, &raw mut self.raw.route_set) } < 0 {
            self.raw.route_set = ptr::null_mut();
            return None;
        }
        Some(())
    }

    /// How the next hop is reached.
    pub(super) fn way<'a>(&'a self, subscription: &'a Snapshot) -> Way<'a> {
        // SAFETY: the route set and its strings live as long as the dialog; the name
        // of the parameter is set when the server starts.
        let (route, alias) = unsafe {
            let first = self.raw.route_set.as_ref().map(|first| text::bytes(first.nameaddr.uri));
            (first, text::bytes(sys::_ksr_contact_salias))
        };
        next_hop::way(route, subscription.text(Text::Contact), alias)
    }

    /// The next hop is at the other end of a connection that is gone.
    pub(super) fn is_gone(way: Way<'_>) -> bool {
        let Way::Connection { host, port } = way else { return false };
        let mut host = text::lend(host);
        // SAFETY: reads the address and the server's table of connections, under
        // that table's own lock.
        unsafe { sys::kshim_connected(&raw mut host, c_int::from(port)) == 0 }
    }

    pub(super) fn log(&self, subscription: &Snapshot, notify: &Notify<'_>) {
        // SAFETY: tm has set the hook to the dialog's own strings.
        let next_hop = unsafe { text::pointed(self.raw.hooks.next_hop) }.unwrap_or_default();
        log::write_local(
            file!(),
            line!(),
            format_args!(
                "NOTIFY {} via {} on behalf of {} for event {} : {}",
                Printable(&self.remote),
                Printable(next_hop),
                Printable(&self.local),
                Printable(event_of(notify.headers)),
                Printable(subscription.text(Text::CallId)),
            ),
        );
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        if self.routes.is_empty() && !self.raw.route_set.is_null() {
            // SAFETY: the list came from parse_rr_body and is still ours.
            unsafe { sys::free_rr(&raw mut self.raw.route_set) };
        }
    }
}

/// Value of the Event header among complete header lines.
fn event_of(headers: &[u8]) -> &[u8] {
    headers
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Event:"))
        .unwrap_or_default()
        .trim_ascii()
}

/// The listening socket `proto:address:port`; NULL leaves the choice to tm.
fn socket(name: &[u8]) -> *mut sys::socket_info {
    if name.is_empty() {
        return ptr::null_mut();
    }
    LAST_SOCKET.with_borrow_mut(|last| {
        if last.0 != name {
            let mut lent = text::lend(name);
            // SAFETY: reads the name; the sockets stay while the server runs.
            *last = (name.to_vec(), unsafe { sys::lookup_local_socket(&raw mut lent) });
        }
        last.1
    })
}

thread_local! {
    /// The socket asked for last: nearly all watchers came in on the same one.
    static LAST_SOCKET: RefCell<(Vec<u8>, *mut sys::socket_info)> =
        const { RefCell::new((Vec::new(), ptr::null_mut())) };
}
