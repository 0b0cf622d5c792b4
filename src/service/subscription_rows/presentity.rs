//! The rows of a presentity, or of a URI. The presentity of a row is named by a
//! URI as a request has spelled it, so that it is looked for in each spelling
//! that it may have (B46).

use std::collections::BTreeSet;

use crate::error::Fault;
use crate::ports::{Compare, Condition, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::listing::Wanted;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Snapshot, Text};
use crate::presence::uri;
use crate::service::Server;
use crate::shm::Memory;

use super::{ActiveWatcherRow, FEW, Page, page, rows};

/// The rows of a presentity in one package that meet `more`: lists of
/// conditions, one for each spelling (B46).
pub fn of_presentity(
    key: &PresentityKey,
    package: &EventPackage,
    more: &[Condition],
) -> Vec<Vec<Condition>> {
    let spelled = |uri| {
        let mut conditions = vec![
            ("presentity_uri", Compare::Eq, Value::Text(uri)),
            ("event", Compare::Eq, Value::text(&package.name)),
        ];
        conditions.extend_from_slice(more);
        conditions
    };
    uri::spellings(&key.user, &key.host).into_iter().map(spelled).collect()
}

/// The living subscriptions to a presentity.
pub fn watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let package = server.registry.get(key.package).ok_or(Fault::Package)?;
    let mut found = Vec::new();
    for conditions in of_presentity(key, package, &[]) {
        found.extend(rows(server, host, &conditions)?);
    }
    found.retain(|row| !row.has_ended());
    Ok(found)
}

/// A watcher's living subscriptions to a presentity, by its user part as they
/// spell it.
pub fn of_watcher<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    user: &[u8],
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let mut found = all_of_watcher(server, host, key, user)?;
    found.retain(|row| !row.has_ended());
    Ok(found)
}

/// The same with those that have ended and whose last NOTIFY has not left.
pub fn all_of_watcher<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    user: &[u8],
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let package = server.registry.get(key.package).ok_or(Fault::Package)?;
    let watcher = [("watcher_username", Compare::Eq, Value::text(user))];
    let mut found = Vec::new();
    for conditions in of_presentity(key, package, &watcher) {
        found.extend(rows(server, host, &conditions)?);
    }
    Ok(found)
}

/// The rows of a subscription's call with its presentity; with `from_tag` only
/// those of one client.
pub fn of_call<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    from_tag: Option<&[u8]>,
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let user = subscription.text(Text::PresentityUser);
    let domain = subscription.text(Text::PresentityHost).to_ascii_lowercase();
    let mut found = Vec::new();
    for uri in uri::spellings(user, &domain) {
        let mut conditions = vec![
            ("presentity_uri", Compare::Eq, Value::Text(uri)),
            ("callid", Compare::Eq, Value::text(subscription.text(Text::CallId))),
        ];
        conditions.extend(from_tag.map(|tag| ("from_tag", Compare::Eq, Value::text(tag))));
        found.extend(rows(server, host, &conditions)?);
    }
    found.retain(|row| row.subscription.package == subscription.package);
    Ok(found)
}

/// What finds the rows that somebody asks for. A presentity is looked for as it is
/// given, and in lower case, with any escapes.
pub fn of_wanted(wanted: &Wanted<'_>, package: Option<&EventPackage>) -> Vec<Vec<Condition>> {
    let mut more = Vec::new();
    if let Some(package) = package {
        more.push(("event", Compare::Eq, Value::text(&package.name)));
    }
    if let Some(call_id) = wanted.call_id {
        more.push(("callid", Compare::Eq, Value::text(call_id)));
    }
    let (None, None) = (wanted.user, wanted.host) else {
        let user = wanted.user.unwrap_or_default();
        let host = wanted.host.unwrap_or_default().to_ascii_lowercase();
        let mut spellings = uri::spellings(user, &host);
        spellings.extend(uri::spellings(&user.to_ascii_lowercase(), &host));
        let spelled =
            |uri| [&more[..], &[("presentity_uri", Compare::Eq, Value::Text(uri))]].concat();
        return spellings.into_iter().collect::<BTreeSet<_>>().into_iter().map(spelled).collect();
    };
    vec![more]
}

/// Somebody's subscription to a presentity lives (B33).
pub fn has_subscribers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> Result<bool, Fault> {
    let package = server.registry.get(key.package).ok_or(Fault::Package)?;
    let living = [("expires", Compare::Greater, Value::Int(host.now()))];
    let lists = of_presentity(key, package, &living);
    let mut after = 0;
    loop {
        let page = page_of_any(server, host, &lists, after, FEW)?;
        if page.rows.iter().any(|row| !row.has_ended()) {
            return Ok(true);
        }
        match page.last {
            Some(last) => after = last,
            None => return Ok(false),
        }
    }
}

/// Rows that meet any of the lists of conditions, as `page` gives them.
pub fn page_of_any<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lists: &[Vec<Condition>],
    after: i64,
    most: usize,
) -> Result<Page, Fault> {
    let (mut rows, mut last) = (Vec::new(), None);
    // Each gives its first rows: what comes behind the last row of one of them
    // may have others before it.
    let mut end = i64::MAX;
    for conditions in lists {
        let page = page(server, host, conditions, after, most)?;
        if let Some(id) = page.last {
            end = end.min(id);
            last = last.max(page.last);
        }
        rows.extend(page.rows);
    }
    if lists.len() > 1 {
        last = last.map(|last| last.min(end));
        rows.retain(|row| row.id <= end);
        rows.sort_by_key(|row| row.id);
    }
    Ok(Page { rows, last })
}
