//! A subscription as siblings see it: a `subs_t` whose strings are ours.

use crate::host::{sys, text};
use crate::presence::subscription::{Snapshot, Text};
use crate::presence::uri::presentity_uri;

/// A `subs_t` made from a snapshot, for the duration of a callback. Every
/// string has a zero behind it, for siblings that take it as a C string.
pub struct SubscriptionView {
    raw: Box<sys::subs_t>,
    rules: Option<Box<sys::_str>>,
    // What `raw` and `rules` point to.
    _text: Vec<u8>,
}

impl SubscriptionView {
    /// Copies a snapshot; `event` is the structure that siblings know its package by,
    /// `rules` becomes `auth_rules_doc`.
    pub fn new(
        event: *mut sys::pres_ev_t,
        subscription: &Snapshot,
        rules: Option<&[u8]>,
    ) -> SubscriptionView {
        let get = |field| subscription.text(field);
        let presentity = presentity_uri(get(Text::PresentityUser), get(Text::PresentityHost));
        let mut raw = Box::<sys::subs_t>::default();
        let mut document = rules.map(|_| Box::<sys::_str>::default());
        let mut parts: Vec<(&mut sys::_str, &[u8])> = vec![
            (&mut raw.pres_uri, &presentity),
            (&mut raw.to_user, get(Text::ToUser)),
            (&mut raw.to_domain, get(Text::ToHost)),
            (&mut raw.from_user, get(Text::FromUser)),
            (&mut raw.from_domain, get(Text::FromHost)),
            (&mut raw.watcher_user, get(Text::WatcherUser)),
            (&mut raw.watcher_domain, get(Text::WatcherHost)),
            (&mut raw.event_id, get(Text::EventId)),
            (&mut raw.to_tag, get(Text::ToTag)),
            (&mut raw.from_tag, get(Text::FromTag)),
            (&mut raw.callid, get(Text::CallId)),
            (&mut raw.sockinfo_str, get(Text::Socket)),
            (&mut raw.contact, get(Text::Contact)),
            (&mut raw.local_contact, get(Text::LocalContact)),
            (&mut raw.record_route, get(Text::RecordRoute)),
            (&mut raw.reason, get(Text::Reason)),
            (&mut raw.user_agent, get(Text::UserAgent)),
        ];
        if let (Some(place), Some(rules)) = (document.as_mut(), rules) {
            parts.push((place, rules));
        }
        let size = parts.iter().map(|(_, part)| part.len() + 1).sum();
        let mut block: Vec<u8> = Vec::with_capacity(size);
        for (place, part) in parts {
            let start = block.len();
            block.extend_from_slice(part);
            block.push(0);
            // An absent string is NULL: some siblings test the pointer. The
            // block has its final size, so it stays where it is.
            if !part.is_empty() {
                place.len = text::lend(part).len;
                place.s = block[start..].as_mut_ptr().cast();
            }
        }
        raw.event = event;
        raw.remote_cseq = subscription.remote_cseq.0;
        raw.local_cseq = subscription.local_cseq.0;
        raw.version = i32::try_from(subscription.version).unwrap_or(i32::MAX);
        raw.expires = subscription.expires;
        raw.status = subscription.status as u32;
        raw.flags = subscription.flags;
        raw.auth_rules_doc = document.as_mut().map_or(std::ptr::null_mut(), |d| &raw mut **d);
        SubscriptionView { raw, rules: document, _text: block }
    }

    /// For the callback; valid as long as the view.
    pub fn as_mut_ptr(&mut self) -> *mut sys::subs_t {
        if let Some(rules) = &mut self.rules {
            self.raw.auth_rules_doc = &raw mut **rules;
        }
        &raw mut *self.raw
    }
}
