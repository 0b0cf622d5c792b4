//! Who watches a presentity whose publications are rows, and has to be notified.

use crate::ports::{Host, Level};
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::transition::{CurrentPublication, Watchers};
use crate::presence::publication::{Facts, PublicationCopy};
use crate::service::publication_request::facts_of;
use crate::service::{Server, expiry};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::publications::{Audience, RowsChanged};

/// What is known of those who watch a presentity: here the lane knows, of other
/// servers nothing is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) watchers: Watchers,
    has_unnotified: bool,
    /// Other servers may still be notifying their watchers of what was published
    /// since.
    since: Option<i64>,
}

impl View {
    pub(super) fn of<M: Memory>(
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
    ) -> View {
        let Audience { watchers, has_unnotified } = server.store.audience(key);
        let since = server.subscriptions().notified_elsewhere_since(host.now());
        View { watchers, has_unnotified, since }
    }

    /// A publication whose row has not been read.
    pub(super) fn unread(self, package: &EventPackage) -> CurrentPublication<'static> {
        CurrentPublication::unread(package, self.has_unnotified || self.since.is_some())
    }

    pub(super) fn stored<'a>(
        self,
        package: &EventPackage,
        row: &'a PublicationCopy,
    ) -> CurrentPublication<'a> {
        let is_recent = self.since.is_some_and(|since| row.received >= since);
        CurrentPublication {
            facts: if package.is_dialog() { facts_of(&row.body) } else { Facts::default() },
            sender: Some(&row.sender),
            has_document: !row.body.is_empty(),
            unseen: self.has_unnotified || is_recent,
        }
    }
}

/// The change is stored: whoever watches is to be notified.
pub(super) fn notify_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    change: RowsChanged<'_>,
) -> Option<LaneRef<M>> {
    server.store.rows_changed(key, change).unwrap_or_else(|fault| {
        expiry::UNNOTIFIED.log(
            host,
            Level::Error,
            format_args!("watchers are told with the next change: {fault}"),
        );
        None
    })
}
