//! All publications of a presentity, in memory that does not grow with what
//! clients publish (A14). Drivers take a whole result, or some hundred rows of it,
//! into private memory, so that large documents are read a few at a time; and
//! beyond what any watcher can be sent the oldest are left out.

use crate::error::Fault;
use crate::ports::{Condition, Database, Extent, Host, Level, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::service::durable::single;
use crate::service::paging::{Place, page};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::store::rows::{PUBLICATION_COLUMNS, PublicationRow, read_publication};
use std::collections::VecDeque;

/// Bytes of documents that one is composed of.
const MOST: usize = 32 << 20;

/// Rows in a page, where documents are large.
const PAGE: usize = 16;

static LEFT_OUT: RateLimitedLog = RateLimitedLog::new();

/// The newest rows, each with its `id`, and how many older ones there are.
#[derive(Default)]
pub(super) struct Rows {
    newest: VecDeque<(i64, PublicationRow)>,
    bytes: usize,
    left_out: usize,
}

impl Rows {
    /// Adds a newer one.
    fn push(&mut self, id: i64, row: PublicationRow) {
        self.bytes += row.publication.body.len();
        self.newest.push_back((id, row));
        while self.bytes > MOST && self.newest.len() > 1 {
            let oldest = self.newest.pop_front();
            self.bytes -= oldest.map_or(0, |(_, row)| row.publication.body.len());
            self.left_out += 1;
        }
    }

    /// Those that are shown, oldest first; one line tells of the others.
    pub(super) fn logged(self, host: &mut dyn Host) -> Vec<(i64, PublicationRow)> {
        if let Some((_, row)) = self.newest.front().filter(|_| self.left_out > 0) {
            log_left_out(host, self.left_out, (&row.user, &row.host));
        }
        self.newest.into()
    }
}

/// Reads rows in the order of the publications.
pub(super) fn read(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
) -> Result<Rows, Fault> {
    let mut columns = PUBLICATION_COLUMNS.to_vec();
    columns.push("id");
    let whole = single(database, |database, _| {
        let mut rows = Rows::default();
        database.query(table, conditions, &columns, Some("received_time, id"), &mut |row| {
            let Some((id, row)) = row.split_last() else { return };
            let read = read_publication(row);
            read.into_iter().for_each(|row| rows.push(id.as_int().unwrap_or_default(), row));
        })?;
        Ok(rows)
    });
    match whole {
        // There may have been no private memory for it.
        Err(Fault::Refused) => in_pages(database, table, conditions),
        read => read,
    }
}

fn in_pages(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
) -> Result<Rows, Fault> {
    let wanted = Wanted { most: PAGE, extent: Extent::Part, is_text: false };
    let (mut rows, mut after) = (Rows::default(), 0);
    loop {
        let place = Place { after, page: wanted };
        let last =
            page(database, table, conditions, PUBLICATION_COLUMNS, place, &mut |id, row| {
                read_publication(row).into_iter().for_each(|row| rows.push(id, row));
            })?;
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    rows.newest.make_contiguous().sort_by_key(|(id, row)| (row.publication.received, *id));
    Ok(rows)
}

/// Leaves out the oldest publications that no document is to be composed of.
pub fn newest(host: &mut dyn Host, key: &PresentityKey, publications: &mut Vec<PublicationCopy>) {
    let mut bytes = 0;
    let fits = |publication: &&PublicationCopy| {
        bytes += publication.body.len();
        bytes <= MOST
    };
    let fitting = publications.iter().rev().take_while(fits).count();
    let left_out = publications.len() - fitting.max(1).min(publications.len());
    if left_out > 0 {
        publications.drain(..left_out);
        log_left_out(host, left_out, (&key.user, &key.host));
    }
}

fn log_left_out(host: &mut dyn Host, left_out: usize, (user, domain): (&[u8], &[u8])) {
    let line = format_args!(
        "the {left_out} oldest documents published for {}@{} are left out: with them there would \
         be more than {} MiB",
        user.escape_ascii(),
        domain.escape_ascii(),
        MOST >> 20
    );
    LEFT_OUT.log(host, Level::Warning, line);
}
