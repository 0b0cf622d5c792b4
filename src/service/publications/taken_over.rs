//! A row of a publication as memory takes it over: at start, and when somebody has
//! changed rows by hand.

use crate::presence::dialog_info;
use crate::presence::event_package::EventPackage;
use crate::presence::publication::{Facts, Step};
use crate::store::publications::PublicationChange;
use crate::store::rows::PublicationRow;

/// What memory has to know of a row's document, which stays in the database.
pub(in crate::service) struct TakenOver {
    facts: Facts,
    /// `id` of the dialog that it is about, or empty.
    dialog_id: Vec<u8>,
}

impl TakenOver {
    /// Of the row of a publication in this package.
    pub fn of(package: &EventPackage, row: &PublicationRow) -> TakenOver {
        let document = package.is_dialog().then_some(&row.publication.body);
        match document.and_then(|document| dialog_info::summary(document)) {
            None => TakenOver { facts: Facts::default(), dialog_id: Vec::new() },
            Some(info) => {
                TakenOver { facts: Facts::of(&info), dialog_id: info.first_id.unwrap_or_default() }
            }
        }
    }

    /// The row as a change that makes the publication: as it was when it was stored.
    pub fn change<'a>(&'a self, row: &'a PublicationRow) -> PublicationChange<'a> {
        let publication = &row.publication;
        PublicationChange {
            step: Step::Create,
            if_match: None,
            entity_tag: &publication.entity_tag,
            ruid: &publication.ruid,
            sender: Some(&publication.sender),
            body: None,
            facts: Some(self.facts),
            dialog_id: &self.dialog_id,
            expires_at: publication.expires_at,
            now: publication.received,
            priority: publication.priority,
            judged_by: None,
        }
    }
}
