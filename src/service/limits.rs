//! What a request over a limit of the operator's is told, and what the log and
//! the counter say of it.

use crate::error::{Fault, Rejection};
use crate::ports::{Host, Level};
use crate::presence::limits::Limit;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::Step;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::uri::{identity, presentity_uri};
use crate::service::Server;
use crate::service::publication_request::PublicationRequest;
use crate::service::subscription_rows as rows;
use crate::shm::Memory;
use crate::store::tally::Room;

/// Counts a refusal by a limit, and writes a line: one for each offender and
/// minute.
pub fn report<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (method, call_id): (&str, &[u8]),
    rejection: &Rejection,
) {
    let Some(exceeded) = &rejection.exceeded else { return };
    let name = [exceeded.parameter.as_bytes(), &exceeded.offender];
    if server.store.tally().refused(&name, host.now()) {
        let (code, parameter) = (rejection.code, exceeded.parameter);
        let (offender, call_id) = (exceeded.offender.escape_ascii(), call_id.escape_ascii());
        let all = server.store.tally().refusals();
        host.log(
            Level::Warning,
            format_args!(
                "{method} refused: {code}, {parameter} reached by {offender} \
                 ({all} refused by limits so far; Call-ID {call_id})"
            ),
        );
    }
}

/// A new subscription is one too many.
pub fn too_many<M: Memory>(server: &Server<M>, limit: Limit, it: &Snapshot) -> Rejection {
    let (user, domain) = match limit {
        Limit::OfPresentity => (Text::PresentityUser, Text::PresentityHost),
        _ => (Text::WatcherUser, Text::WatcherHost),
    };
    let offender = presentity_uri(it.text(user), it.text(domain));
    server.config.limits.exceeded(limit, offender)
}

/// A document may be published by a request, or by a sibling in its place. What
/// the operator publishes for ever is not a client's.
pub fn check_document<M: Memory>(
    server: &Server<M>,
    publishing: &PublicationRequest<'_>,
) -> Result<(), Rejection> {
    let limits = &server.config.limits;
    let is_small = limits.takes_document(publishing.body.len());
    if is_small || publishing.for_ever || publishing.step == Step::Remove {
        return Ok(());
    }
    let key = &publishing.key;
    Err(limits.exceeded(Limit::Document, presentity_uri(&key.user, &key.host)))
}

/// A PUBLISH must not follow the one before it at once. What ends a publication
/// may.
pub fn check_publish_gap<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
) -> Result<(), Rejection> {
    let (limits, key) = (&server.config.limits, &publishing.key);
    let Some(tag) = publishing.if_match.filter(|_| limits.publish_gap > 0) else { return Ok(()) };
    let name = [b"publish", &*key.identity, tag];
    let gap = limits.publish_gap;
    if publishing.step == Step::Remove
        || !server.store.tally().is_too_soon(&name, gap, host.milliseconds())
    {
        return Ok(());
    }
    Err(limits.exceeded(Limit::PublishGap, presentity_uri(&key.user, &key.host)))
}

/// A PUBLISH was accepted: the next one will name this entity-tag.
pub fn published<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    tag: &[u8],
) {
    if server.config.limits.publish_gap > 0 {
        let name = [b"publish", &*publishing.key.identity, tag];
        server.store.tally().remember(&name, host.milliseconds());
    }
}

/// A refresh must not follow the one before it at once. What ends a
/// subscription may. `watcher` is the one to be named.
pub fn check_refresh_gap<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    watcher: (&[u8], &[u8]),
) -> Result<(), Rejection> {
    let limits = &server.config.limits;
    if limits.refresh_gap == 0
        || !server.store.tally().is_too_soon(
            &refresh_name(dialog),
            limits.refresh_gap,
            host.milliseconds(),
        )
    {
        return Ok(());
    }
    Err(limits.exceeded(Limit::RefreshGap, presentity_uri(watcher.0, watcher.1)))
}

/// A refresh was accepted.
pub fn refreshed<M: Memory>(server: &Server<M>, host: &mut dyn Host, dialog: DialogId<'_>) {
    if server.config.limits.refresh_gap > 0 {
        server.store.tally().remember(&refresh_name(dialog), host.milliseconds());
    }
}

fn refresh_name(dialog: DialogId<'_>) -> [&[u8]; 4] {
    [b"refresh", dialog.call_id, dialog.from_tag, dialog.to_tag]
}

/// What a row of a subscription is counted for.
const OF_ROWS: [Limit; 3] = [Limit::OfWatcher, Limit::OfPresentity, Limit::Subscriptions];

/// Works on the name under which a row is counted.
fn with_name<M: Memory, R>(
    server: &Server<M>,
    limit: Limit,
    key: &PresentityKey,
    subscription: &Snapshot,
    work: impl FnOnce(&[&[u8]]) -> R,
) -> R {
    let (user, host) = (subscription.text(Text::WatcherUser), subscription.text(Text::WatcherHost));
    let kind = limit.parameter().as_bytes();
    match limit {
        Limit::OfWatcher => {
            let watcher = identity(user, host, server.store.policy.user_case);
            work(&[kind, &watcher])
        }
        Limit::OfPresentity => work(&[kind, &key.package.0.to_le_bytes(), &key.identity]),
        _ => work(&[kind]),
    }
}

/// Which of the limits a new subscription that is a row would exceed. Rows are
/// counted by what this server has added; only when that comes near a limit
/// they are counted in the table, of the same offender every ten seconds.
pub fn full_of_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<Option<Limit>, Fault> {
    let (limits, tally, now) = (&server.config.limits, server.store.tally(), host.now());
    for limit in OF_ROWS {
        let has_room = |count| limits.has_room(limit, count);
        let room =
            with_name(server, limit, key, subscription, |name| tally.room(name, has_room, now));
        let is_full = match room {
            Room::Yes => false,
            Room::No => true,
            Room::Ask => {
                let conditions = match limit {
                    Limit::OfWatcher => rows::of_this_watcher(subscription),
                    Limit::OfPresentity => {
                        let package = server.registry.get(key.package).ok_or(Fault::Package)?;
                        rows::of_presentity(key, package, &[])
                    }
                    _ => vec![Vec::new()],
                };
                let count = rows::count(server, host, conditions, limits.of(limit))?;
                let is_full = !has_room(count);
                with_name(server, limit, key, subscription, |name| {
                    tally.rows_counted(name, count, is_full, now);
                });
                is_full
            }
        };
        if is_full {
            return Ok(Some(limit));
        }
    }
    Ok(None)
}

/// A subscription that is a row has begun, or has ended.
pub fn row_counted<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    subscription: &Snapshot,
    begins: bool,
) {
    let tally = server.store.tally();
    for limit in OF_ROWS.into_iter().filter(|limit| server.config.limits.of(*limit) > 0) {
        with_name(server, limit, key, subscription, |name| match begins {
            true => tally.row_added(name),
            false => tally.row_gone(name),
        });
    }
}

/// A new publication that is a row, unless there are too many.
pub fn check_publication_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    count: impl FnOnce(&mut dyn Host, u32) -> Result<u32, Fault>,
) -> Result<(), Rejection> {
    let (limits, tally, now) = (&server.config.limits, server.store.tally(), host.now());
    let has_room = |count| limits.has_room(Limit::Publications, count);
    let (key, package) = (&publishing.key, publishing.key.package.0.to_le_bytes());
    let name: [&[u8]; 3] = [PUBLICATIONS, &package, &key.identity];
    let is_full = match tally.room(&name, has_room, now) {
        _ if publishing.for_ever => false,
        Room::Yes => false,
        Room::No => true,
        Room::Ask => {
            let count = count(host, limits.publications)?;
            tally.rows_counted(&name, count, !has_room(count), now);
            !has_room(count)
        }
    };
    match is_full {
        true => {
            let offender = presentity_uri(&key.user, &key.host);
            Err(limits.exceeded(Limit::Publications, offender))
        }
        false => Ok(()),
    }
}

/// A publication that is a row has begun, or has ended.
pub fn publication_row_counted<M: Memory>(server: &Server<M>, key: &PresentityKey, begins: bool) {
    let (tally, package) = (server.store.tally(), key.package.0.to_le_bytes());
    let name: [&[u8]; 3] = [PUBLICATIONS, &package, &key.identity];
    match begins {
        true => tally.row_added(&name),
        false => tally.row_gone(&name),
    }
}

/// Begins the names of counts of publications.
const PUBLICATIONS: &[u8] = b"max_publications";
