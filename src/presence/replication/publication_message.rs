//! Action 1: a publication was made, changed, refreshed or removed. The form is
//! that of 5.6, which every release reads: the members, their order, and an empty
//! `body` where there is none.

use super::json::{Malformed, Object, push_name, push_number, push_text};

/// Longest user, domain or watcher URI.
const IDENTITY: usize = 1024;
/// Longest entity-tag, id or event: what their columns take at most.
const NAME: usize = 255;

/// What the message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationMessage<'a> {
    /// Domain of the presentity, as its publisher has spelled it.
    pub domain: &'a [u8],
    /// User of the presentity.
    pub user: &'a [u8],
    /// Event package.
    pub event: &'a [u8],
    /// The entity-tag before the change; that of a new publication.
    pub etag: &'a [u8],
    /// The entity-tag after it; empty for a new publication and for a removal.
    pub new_etag: &'a [u8],
    /// Seconds that it lives from now on; 0 for a removal, `None` for ever.
    pub expires: Option<u32>,
    /// Unix time at which the change was accepted, by its server's clock.
    pub received: i64,
    /// The publisher's watcher URI.
    pub sender: Option<&'a [u8]>,
    /// It is a new publication.
    pub is_new: bool,
    /// The publication's id, which stays; empty for none.
    pub ruid: &'a [u8],
    /// The document; empty to leave what there is.
    pub body: &'a [u8],
}

impl<'a> PublicationMessage<'a> {
    /// Reads it. The message is that of a change if it has a `presentity`.
    pub(super) fn read(message: &'a Object) -> Result<PublicationMessage<'a>, Malformed> {
        let presentity =
            message.object("presentity")?.ok_or(Malformed("there is no presentity"))?;
        let line = |name, most| -> Result<&'a [u8], Malformed> {
            let text = presentity.line(name, most)?;
            text.ok_or(Malformed("a member of the presentity is missing"))
        };
        let filled = |text: &'a [u8]| match text {
            b"" => Err(Malformed("a text that has to say something is empty")),
            text => Ok(text),
        };
        let seconds = i64::from(i32::MAX);
        let expires = presentity.number("expires", -1..=seconds)?;
        let expires = expires.ok_or(Malformed("there is no expires"))?;
        // What stock never writes (D3), and what it is made of.
        message.text("sphere")?;
        let read = PublicationMessage {
            domain: filled(line("domain", IDENTITY)?)?,
            user: line("user", IDENTITY)?,
            event: filled(line("event", NAME)?)?,
            etag: filled(line("etag", NAME)?)?,
            new_etag: message.line("cur_etag", NAME)?.unwrap_or_default(),
            // -1 alone stands for ever.
            expires: u32::try_from(expires).ok(),
            received: presentity.number("recv", 0..=i64::from(u32::MAX))?.unwrap_or_default(),
            sender: presentity.line("sender", IDENTITY)?.filter(|sender| !sender.is_empty()),
            is_new: message.number("t_new", 0..=1)? == Some(1),
            ruid: message.line("ruid", NAME)?.unwrap_or_default(),
            body: message.text("body")?.unwrap_or_default(),
        };
        Ok(read)
    }

    /// The message, as the stock module writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(320 + self.body.len() + self.body.len() / 8);
        message.push(b'{');
        push_number(&mut message, "action", super::message::UPDATE_PUBLICATION);
        push_name(&mut message, "presentity");
        message.push(b'{');
        push_text(&mut message, "domain", self.domain);
        push_text(&mut message, "user", self.user);
        push_text(&mut message, "etag", self.etag);
        push_number(&mut message, "expires", self.expires.map_or(-1, i64::from));
        push_number(&mut message, "recv", self.received);
        if let Some(sender) = self.sender {
            push_text(&mut message, "sender", sender);
        }
        push_text(&mut message, "event", self.event);
        message.push(b'}');
        push_number(&mut message, "t_new", i64::from(self.is_new));
        push_text(&mut message, "cur_etag", self.new_etag);
        if !self.ruid.is_empty() {
            push_text(&mut message, "ruid", self.ruid);
        }
        push_text(&mut message, "body", self.body);
        message.push(b'}');
        message
    }

    /// The entity-tag that the publication has after the change.
    pub fn tag(&self) -> &'a [u8] {
        if self.new_etag.is_empty() { self.etag } else { self.new_etag }
    }

    /// It ends the publication.
    pub fn is_removal(&self) -> bool {
        self.expires == Some(0)
    }
}
