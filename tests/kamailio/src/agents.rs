//! A publishing and a watching user agent.

use crate::bodies;
use crate::endpoint::{Answer, Endpoint, Received};
use crate::kamailio::Kamailio;
use crate::sip::{DOMAIN, Message, aor, parameter, unique};
use crate::trace::Trace;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a NOTIFY may take before a test gives up.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// The content type that is usual for an event package.
fn usual_content_type(event: &str) -> &'static str {
    if event.starts_with("dialog") {
        bodies::DIALOG_INFO
    } else if event.starts_with("message-summary") {
        bodies::MESSAGE_SUMMARY
    } else {
        bodies::PIDF
    }
}

/// A user agent that publishes the state of one presentity. All public fields
/// may be changed between requests.
pub struct Publisher {
    /// Its socket.
    pub endpoint: Endpoint,
    /// Request-URI and To URI.
    pub presentity: String,
    /// From URI.
    pub sender: String,
    /// Value of Event.
    pub event: String,
    /// Value of Content-Type.
    pub content_type: String,
    /// Value of Expires; `None` leaves the header out.
    pub expires: Option<u32>,
    /// The entity-tag of the publication, once there is one.
    pub etag: Option<String>,
    /// Call-ID of all requests.
    pub call_id: String,
    /// Number of the last request.
    pub cseq: u32,
}

impl Publisher {
    /// A publisher of `user`'s presence over UDP.
    pub fn udp(kamailio: &Kamailio, user: &str) -> Self {
        Self::with(kamailio.address(), kamailio.trace(), user)
    }

    /// [`Publisher::udp`] for use in another thread, where [`Kamailio`] cannot go.
    pub fn with(server: SocketAddr, trace: Trace, user: &str) -> Self {
        let endpoint = Endpoint::udp(server, trace, &format!("publisher-{user}"));
        Self {
            endpoint,
            presentity: aor(user),
            sender: aor(user),
            event: "presence".into(),
            content_type: bodies::PIDF.into(),
            expires: Some(3600),
            etag: None,
            call_id: unique("pub-"),
            cseq: 0,
        }
    }

    /// Publishes another event package (with the content type that is usual for it).
    pub fn event(mut self, event: &str) -> Self {
        self.event = event.into();
        self.content_type = usual_content_type(event).into();
        self
    }

    /// The next PUBLISH: with SIP-If-Match when there is an entity-tag, with
    /// Content-Type when there is a body.
    pub fn message(&mut self, body: Option<&str>) -> Message {
        self.cseq = self.cseq.wrapping_add(1);
        let mut message = Message::new(format!("PUBLISH {} SIP/2.0", self.presentity));
        message
            .push("Via", self.endpoint.via())
            .push("Max-Forwards", "70")
            .push("From", format!("<{}>;tag={}", self.sender, self.call_id))
            .push("To", format!("<{}>", self.presentity))
            .push("Call-ID", self.call_id.as_str())
            .push("CSeq", format!("{} PUBLISH", self.cseq))
            .push("Contact", self.endpoint.contact("publisher"))
            .push("Event", self.event.as_str());
        if let Some(expires) = self.expires {
            message.push("Expires", expires.to_string());
        }
        if let Some(etag) = &self.etag {
            message.push("SIP-If-Match", etag.as_str());
        }
        if body.is_some() {
            message.push("Content-Type", self.content_type.as_str());
        }
        message.set_body(body.unwrap_or(""));
        message
    }

    /// Sends a message built by [`Publisher::message`] and keeps the entity-tag of a 200.
    pub fn send(&mut self, message: &Message) -> Message {
        let reply = self.endpoint.request(message);
        if reply.status() == Some(200) {
            let over = reply.number("Expires") == Some(0);
            self.etag = if over { None } else { reply.header("SIP-ETag").map(str::to_owned) };
        }
        reply
    }

    fn expect_200(&self, what: &str, reply: Message) -> Message {
        assert_eq!(
            reply.status(),
            Some(200),
            "{what} is answered with {}\n---- SIP trace ----\n{}",
            reply.start_line,
            self.endpoint.trace().tail()
        );
        reply
    }

    /// Publishes a body as a new publication, without an entity-tag.
    pub fn try_publish(&mut self, body: impl AsRef<str>) -> Message {
        self.etag = None;
        let message = self.message(Some(body.as_ref()));
        self.send(&message)
    }

    /// [`Publisher::try_publish`] that must be answered with 200.
    pub fn publish(&mut self, body: impl AsRef<str>) -> Message {
        let reply = self.try_publish(body);
        self.expect_200("the initial PUBLISH", reply)
    }

    /// Publishes a new body under the entity-tag; whatever the reply.
    pub fn try_modify(&mut self, body: impl AsRef<str>) -> Message {
        let message = self.message(Some(body.as_ref()));
        self.send(&message)
    }

    /// [`Publisher::try_modify`] that must be answered with 200.
    pub fn modify(&mut self, body: impl AsRef<str>) -> Message {
        let reply = self.try_modify(body);
        self.expect_200("the modifying PUBLISH", reply)
    }

    /// Extends the publication (no body); whatever the reply.
    pub fn try_refresh(&mut self) -> Message {
        let message = self.message(None);
        self.send(&message)
    }

    /// [`Publisher::try_refresh`] that must be answered with 200.
    pub fn refresh(&mut self) -> Message {
        let reply = self.try_refresh();
        self.expect_200("the refreshing PUBLISH", reply)
    }

    /// Removes the publication; whatever the reply.
    pub fn try_remove(&mut self) -> Message {
        let mut message = self.message(None);
        message.set("Expires", "0");
        self.send(&message)
    }

    /// [`Publisher::try_remove`] that must be answered with 200.
    pub fn remove(&mut self) -> Message {
        let reply = self.try_remove();
        self.expect_200("the removing PUBLISH", reply)
    }

    /// The entity-tag; panics when there is none.
    pub fn tag(&self) -> String {
        self.etag.clone().unwrap_or_else(|| {
            panic!("no entity-tag\n---- SIP trace ----\n{}", self.endpoint.trace().tail())
        })
    }
}

/// A NOTIFY that a watcher received.
#[derive(Clone, Debug)]
pub struct Notify {
    /// The request.
    pub message: Message,
    /// Number in CSeq.
    pub cseq: u32,
    /// State in Subscription-State: `active`, `pending`, `terminated`.
    pub state: String,
    /// Value of Subscription-State.
    pub subscription_state: String,
    /// Position in the arrival order at the watcher's socket.
    pub order: usize,
    /// When it arrived first.
    pub at: Instant,
    /// The address that sent it.
    pub from: SocketAddr,
    /// How often it arrived again.
    pub retransmissions: usize,
}

impl Notify {
    fn new(entry: &Received) -> Self {
        let subscription_state =
            entry.message.header("Subscription-State").unwrap_or("").to_owned();
        Self {
            message: entry.message.clone(),
            cseq: entry.message.cseq(),
            state: subscription_state.split(';').next().unwrap_or("").trim().to_owned(),
            subscription_state,
            order: entry.order,
            at: entry.at,
            from: entry.from,
            retransmissions: 0,
        }
    }

    /// The body as text.
    pub fn body(&self) -> String {
        self.message.body_text()
    }

    /// A parameter of Subscription-State.
    pub fn state_parameter(&self, name: &str) -> Option<&str> {
        parameter(&self.subscription_state, name)
    }

    /// Active with so many seconds to go: one may have ended since the request.
    pub fn lasts(&self, seconds: u32) -> bool {
        let is = |left: u32| self.subscription_state == format!("active;expires={left}");
        is(seconds) || is(seconds - 1)
    }

    /// The `reason` of Subscription-State, or empty.
    pub fn reason(&self) -> &str {
        self.state_parameter("reason").unwrap_or("")
    }
}

/// A user agent that watches one presentity. All public fields may be changed
/// between requests. The NOTIFYs of the current dialog are those with its
/// Call-ID; [`Watcher::new_dialog`] begins another one on the same socket.
pub struct Watcher {
    /// Its socket.
    pub endpoint: Endpoint,
    /// Request-URI of the initial SUBSCRIBE and To URI.
    pub presentity: String,
    /// From URI.
    pub watcher: String,
    /// Value of Event.
    pub event: String,
    /// Value of Accept.
    pub accept: String,
    /// Value of Contact.
    pub contact: String,
    /// Value of Expires when a method does not say otherwise; `None` leaves it out.
    pub expires: Option<u32>,
    /// Headers added at the end of every SUBSCRIBE.
    pub extra_headers: Vec<(String, String)>,
    /// Call-ID of the dialog.
    pub call_id: String,
    /// Our tag.
    pub from_tag: String,
    /// The server's tag, once there is a dialog.
    pub to_tag: Option<String>,
    /// Number of the last SUBSCRIBE.
    pub cseq: u32,
    /// Request-URI within the dialog (the server's Contact).
    pub remote_target: Option<String>,
    /// How much later than the request that causes it a NOTIFY may come
    /// (notifier processes).
    pub notify_delay: Duration,
    next: usize,
}

impl Watcher {
    /// A watcher of `user`'s presence over UDP.
    pub fn udp(kamailio: &Kamailio, user: &str) -> Self {
        let endpoint =
            Endpoint::udp(kamailio.address(), kamailio.trace(), &format!("watcher-of-{user}"));
        Self::of(kamailio, endpoint, user)
    }

    fn of(kamailio: &Kamailio, endpoint: Endpoint, user: &str) -> Self {
        let notify_delay = kamailio.storage().notify_delay();
        Self { notify_delay, ..Self::on(endpoint, user) }
    }

    /// A watcher of `user`'s presence over TCP.
    pub fn tcp(kamailio: &Kamailio, user: &str) -> Self {
        let endpoint =
            Endpoint::tcp(kamailio.address(), kamailio.trace(), &format!("watcher-of-{user}"));
        Self::of(kamailio, endpoint, user)
    }

    /// A watcher of `user`'s presence over WebSocket.
    pub fn websocket(kamailio: &Kamailio, user: &str) -> Self {
        let endpoint =
            Endpoint::websocket(kamailio.address(), kamailio.trace(), &format!("web-{user}"));
        Self::of(kamailio, endpoint, user)
    }

    /// [`Watcher::udp`] for use in another thread, where [`Kamailio`] cannot go.
    pub fn with(server: SocketAddr, trace: Trace, user: &str) -> Self {
        Self::on(Endpoint::udp(server, trace, &format!("watcher-of-{user}")), user)
    }

    /// A watcher on a socket that exists already.
    pub fn on(endpoint: Endpoint, user: &str) -> Self {
        let contact = endpoint.contact("watcher");
        Self {
            endpoint,
            presentity: aor(user),
            watcher: format!("sip:watcher@{DOMAIN}"),
            event: "presence".into(),
            accept: bodies::PIDF.into(),
            contact,
            expires: Some(600),
            extra_headers: Vec::new(),
            call_id: unique("sub-"),
            from_tag: unique("w"),
            to_tag: None,
            cseq: 0,
            remote_target: None,
            notify_delay: Duration::ZERO,
            next: 0,
        }
    }

    /// Watches another event package.
    pub fn event(mut self, event: &str) -> Self {
        self.event = event.into();
        self.accept = if event.contains(".winfo") {
            "application/watcherinfo+xml".into()
        } else {
            usual_content_type(event).into()
        };
        self
    }

    /// Sets the From URI.
    pub fn named(mut self, user: &str) -> Self {
        self.watcher = aor(user);
        self
    }

    /// Answers every NOTIFY like this.
    pub fn answer(&self, answer: Answer) {
        self.endpoint.answer_with(move |_| answer);
    }

    /// Begins a new dialog on the same socket.
    pub fn new_dialog(&mut self) {
        self.call_id = unique("sub-");
        self.from_tag = unique("w");
        self.to_tag = None;
        self.cseq = 0;
        self.remote_target = None;
        self.next = 0;
    }

    /// The next SUBSCRIBE of the dialog (or the first).
    pub fn message(&mut self) -> Message {
        self.cseq = self.cseq.wrapping_add(1);
        let uri = match (&self.to_tag, &self.remote_target) {
            (Some(_), Some(target)) => target.clone(),
            _ => self.presentity.clone(),
        };
        let to_tag = self.to_tag.as_ref().map_or(String::new(), |tag| format!(";tag={tag}"));
        let mut message = Message::new(format!("SUBSCRIBE {uri} SIP/2.0"));
        message
            .push("Via", self.endpoint.via())
            .push("Max-Forwards", "70")
            .push("From", format!("<{}>;tag={}", self.watcher, self.from_tag))
            .push("To", format!("<{}>{to_tag}", self.presentity))
            .push("Call-ID", self.call_id.as_str())
            .push("CSeq", format!("{} SUBSCRIBE", self.cseq))
            .push("Contact", self.contact.as_str())
            .push("Event", self.event.as_str())
            .push("Accept", self.accept.as_str());
        if let Some(expires) = self.expires {
            message.push("Expires", expires.to_string());
        }
        for (name, value) in &self.extra_headers {
            message.push(name.as_str(), value.as_str());
        }
        message.push("Content-Length", "0");
        message
    }

    /// Sends a message built by [`Watcher::message`]; keeps tag and target of a 2xx.
    pub fn send(&mut self, message: &Message) -> Message {
        let reply = self.endpoint.request(message);
        if matches!(reply.status(), Some(200..=299)) {
            self.to_tag = reply.to_tag().map(str::to_owned);
            self.remote_target = reply.header("Contact").map(|contact| {
                contact.trim_start_matches('<').split('>').next().unwrap_or("").to_owned()
            });
        }
        reply
    }

    /// Sends the next SUBSCRIBE with this Expires; whatever the reply.
    pub fn try_subscribe(&mut self, expires: u32) -> Message {
        let mut message = self.message();
        message.set("Expires", expires.to_string());
        self.send(&message)
    }

    /// Sends the next SUBSCRIBE (a refresh when there is a dialog); it must be
    /// answered with a 2xx.
    pub fn subscribe(&mut self, expires: u32) -> Message {
        let reply = self.try_subscribe(expires);
        assert!(
            matches!(reply.status(), Some(200..=299)),
            "the SUBSCRIBE is answered with {}\n---- SIP trace ----\n{}",
            reply.start_line,
            self.endpoint.trace().tail()
        );
        reply
    }

    /// Ends the subscription; must be answered with a 2xx.
    pub fn unsubscribe(&mut self) -> Message {
        self.subscribe(0)
    }

    /// Asks once, in a new dialog: the NOTIFY with the present state.
    pub fn fetch(&mut self) -> Notify {
        self.new_dialog();
        self.subscribe(0);
        self.next_notify("the NOTIFY of a fetch")
    }

    /// The NOTIFYs of this dialog so far in order of arrival, retransmissions counted and left out.
    pub fn notifies(&self) -> Vec<Notify> {
        notifies(&self.endpoint.received(), &self.call_id)
    }

    /// The last NOTIFY of the dialog that arrived.
    pub fn last_notify(&self) -> Option<Notify> {
        self.notifies().pop()
    }

    /// Waits for a NOTIFY of the dialog (earlier ones included) that fits; panics with the trace.
    pub fn wait_notify(&self, what: &str, fits: impl FnMut(&Notify) -> bool) -> Notify {
        self.wait_notify_for(NOTIFY_TIMEOUT, what, fits)
    }

    /// [`Watcher::wait_notify`] with another limit.
    pub fn wait_notify_for(
        &self,
        timeout: Duration,
        what: &str,
        fits: impl FnMut(&Notify) -> bool,
    ) -> Notify {
        self.find_notify(timeout, fits).unwrap_or_else(|| {
            panic!(
                "{}: no NOTIFY within {timeout:?}: {what}\n---- SIP trace ----\n{}",
                self.endpoint.name(),
                self.endpoint.trace().tail()
            )
        })
    }

    /// Waits for a NOTIFY of the dialog (earlier ones included) that fits.
    pub fn find_notify(
        &self,
        timeout: Duration,
        mut fits: impl FnMut(&Notify) -> bool,
    ) -> Option<Notify> {
        self.endpoint.wait(timeout, |received| {
            notifies(received, &self.call_id).into_iter().find(|notify| fits(notify))
        })
    }

    /// The next NOTIFY of the dialog in order of arrival that this method has
    /// not given yet; panics with the trace when none comes.
    pub fn next_notify(&mut self, what: &str) -> Notify {
        let index = self.next;
        let found = self.endpoint.wait(NOTIFY_TIMEOUT, |received| {
            notifies(received, &self.call_id).into_iter().nth(index)
        });
        let Some(notify) = found else {
            panic!(
                "{}: NOTIFY number {} of the dialog did not come within {NOTIFY_TIMEOUT:?}: {what}\
                 \n---- SIP trace ----\n{}",
                self.endpoint.name(),
                index + 1,
                self.endpoint.trace().tail()
            )
        };
        self.next += 1;
        notify
    }

    /// Marks all NOTIFYs that have arrived as seen by [`Watcher::next_notify`].
    pub fn skip_notifies(&mut self) {
        self.next = self.notifies().len();
    }

    /// Asserts that no NOTIFY comes that [`Watcher::next_notify`] has not
    /// given yet: none before the answer to an OPTIONS, none within `window` after it.
    pub fn no_more_notify(&self, window: Duration, what: &str) {
        self.endpoint.barrier();
        let next = self.next;
        let surprise = self.endpoint.wait(window + self.notify_delay, |received| {
            notifies(received, &self.call_id).into_iter().nth(next)
        });
        if let Some(notify) = surprise {
            panic!(
                "{}: a NOTIFY that should not be sent ({what}): CSeq {}, {}\n---- SIP trace ----\n{}",
                self.endpoint.name(),
                notify.cseq,
                notify.subscription_state,
                self.endpoint.trace().tail()
            );
        }
    }

    /// Asserts that the CSeqs of the dialog's NOTIFYs rise strictly in order of arrival.
    pub fn assert_rising_cseq(&self) {
        let list: Vec<u32> = self.notifies().iter().map(|notify| notify.cseq).collect();
        assert!(
            list.windows(2).all(|pair| pair[0] < pair[1]),
            "{}: CSeqs do not rise: {list:?}\n---- SIP trace ----\n{}",
            self.endpoint.name(),
            self.endpoint.trace().tail()
        );
    }
}

/// The NOTIFYs of one dialog, retransmissions folded into their first arrival.
fn notifies(received: &[Received], call_id: &str) -> Vec<Notify> {
    let mut list: Vec<Notify> = Vec::new();
    for entry in received {
        let message = &entry.message;
        if message.method() != "NOTIFY" || message.call_id() != call_id {
            continue;
        }
        if entry.retransmission
            && let Some(first) = list.iter_mut().find(|notify| {
                notify.cseq == message.cseq() && notify.message.branch() == message.branch()
            })
        {
            first.retransmissions += 1;
            continue;
        }
        list.push(Notify::new(entry));
    }
    list
}
