//! Rows that spell their user or domain otherwise than we do: those of the stock
//! module (B19), or of another client (B46).

use crate::error::Fault;
use crate::ports::{Database, Value};
use crate::presence::presentity::PresentityKey;
use crate::service::durable::single;
use crate::store::rows::{PublicationRow, publication_conditions};

/// Makes the spelling of a row ours. One that cannot be changed is found in its
/// own spelling.
pub fn respell(
    database: &mut dyn Database,
    table: &str,
    row: &PublicationRow,
    key: &PresentityKey,
) -> Result<(), Fault> {
    if key.host == row.host && key.user == row.user {
        return Ok(());
    }
    let old = PresentityKey { user: row.user.clone(), host: row.host.clone(), ..key.clone() };
    let conditions = publication_conditions(&old, &row.event, &row.publication.entity_tag);
    let set = [("username", Value::text(&key.user)), ("domain", Value::text(&key.host))];
    match single(database, |database, _| database.update(table, &conditions, &set)) {
        Err(Fault::Refused) => Ok(()),
        respelled => respelled,
    }
}
