//! A dialog that has terminated is not opened again by a late update (B44), in
//! whichever place the stored document is.

use crate::fakes::{DIALOG, Publish, Setup, World, dialog};
use presence::config::PublicationCache;
use presence::service::sibling_publication::{self, SiblingPublication};

/// Every place where a document may be, and how often it has to be asked for:
/// in memory, in its row, in its row and beside it, in rows that judge.
fn setups() -> [Setup; 4] {
    let stored = Setup::stored();
    let kept = Setup { document_cache_bytes: 100_000, ..Setup::stored() };
    [
        Setup::default(),
        stored.clone(),
        kept,
        Setup { cache: PublicationCache::None, ..Setup::stored() },
    ]
}

/// `id/call-id:state` of several dialogs.
fn several(dialogs: &[(&str, &str, &str)]) -> String {
    let of = |(id, call, state): &(&str, &str, &str)| {
        format!("<dialog id=\"{id}\" call-id=\"{call}\"><state>{state}</state></dialog>")
    };
    let inner: String = dialogs.iter().map(of).collect();
    format!("<dialog-info state=\"partial\">{inner}</dialog-info>")
}

fn document(world: &mut World) -> String {
    if let Some(database) = &world.host.database {
        return database.column("presentity", "body").join(" ");
    }
    let state = world.server.store.state(&world.key("alice", DIALOG));
    let bodies = state.publications.iter().map(|one| String::from_utf8_lossy(&one.body));
    bodies.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_late_update_opens_nothing_and_its_tag_exists() {
    for setup in setups() {
        let mut world = World::new(setup);
        world.watch("w", "dialog");
        world.seen();
        let tag = world.create("dialog", &dialog("x", "confirmed"));
        let tag = world.modify("dialog", &tag, &dialog("x", "terminated"));
        assert_eq!(world.seen(), ["w 3 active x:confirmed", "w 4 active x:terminated"]);
        let mut tag = tag;
        for _ in 0..3 {
            for state in ["confirmed", "early", "terminated"] {
                tag = world.modify("dialog", &tag, &dialog("x", state));
                let seen = world.seen();
                assert!(seen.iter().all(|one| one.ends_with("x:terminated")), "{seen:?}");
                assert!(document(&mut world).contains(">terminated<"));
            }
        }
        let again =
            world.publish(Publish { event: Some("dialog"), tag: Some(&tag), ..Publish::default() });
        assert_eq!(again.code, 200, "the tag exists");
        // Another dialog in its place is a new call, and so is a publication.
        let tag = world.modify("dialog", &again.tag, &dialog("y", "early"));
        assert!(world.seen().last().is_some_and(|one| one.ends_with("y:early")));
        world.modify("dialog", &tag, &dialog("y", "terminated"));
        world.seen();
        world.create("dialog", &dialog("y", "confirmed"));
        assert!(world.seen().last().is_some_and(|one| one.ends_with("y:confirmed")));
    }
}

#[test]
fn the_other_dialogs_of_the_document_change() {
    for setup in setups() {
        let mut world = World::new(setup);
        let first = several(&[("a", "1", "terminated"), ("b", "2", "early")]);
        let tag = world.create("dialog", &first);
        let late =
            several(&[("b", "2", "confirmed"), ("a", "1", "confirmed"), ("c", "3", "early")]);
        let tag = world.modify("dialog", &tag, &late);
        let kept =
            several(&[("b", "2", "confirmed"), ("a", "1", "terminated"), ("c", "3", "early")]);
        assert_eq!(document(&mut world), kept);
        // Another call with the id of an old one is another dialog.
        let next = several(&[("a", "9", "early"), ("b", "2", "terminated")]);
        world.modify("dialog", &tag, &next);
        assert_eq!(document(&mut world), next);
    }
}

#[test]
fn an_ordinary_update_asks_for_nothing_more() {
    let counted = |state: &str| {
        let mut world = World::new(Setup::stored());
        let database = world.host.database.clone().unwrap();
        let tag = world.create("dialog", &dialog("x", state));
        let before = database.statements();
        world.modify("dialog", &tag, &dialog("x", "confirmed"));
        database.statements() - before
    };
    assert_eq!((counted("early"), counted("terminated")), (1, 2));
}

#[test]
fn a_final_state_that_some_have_not_seen_is_still_shown() {
    for setup in setups() {
        let mut world = World::new(setup);
        world.watch("w", "dialog");
        world.seen();
        let tag = world.create("dialog", &dialog("x", "early"));
        world.seen();
        let mut other = world.fork();
        world.host.during_notify.push_back(Box::new(move || {
            let tag = other.modify("dialog", &tag, &dialog("x", "terminated"));
            other.modify("dialog", &tag, &dialog("x", "confirmed"));
        }));
        world.create("dialog", &dialog("other", "early"));
        let seen = world.seen();
        assert!(seen.iter().any(|one| one.contains("x:terminated")), "{seen:?}");
    }
}

/// A sibling keeps its entity-tag, and publishes over what is there.
#[test]
fn a_sibling_opens_nothing_again_either() {
    for setup in setups() {
        let mut world = World::new(setup);
        for (state, kept) in
            [("early", "early"), ("terminated", "terminated"), ("early", "terminated")]
        {
            let body = dialog("x", state);
            let given = SiblingPublication {
                package: DIALOG,
                user: b"alice",
                domain: b"h",
                entity_tag: b"call-1",
                sender: None,
                body: body.as_bytes(),
                expires: 60,
                for_ever: false,
                is_new: true,
            };
            assert_eq!(
                sibling_publication::publish(&world.server, &mut world.host, &given),
                Ok(())
            );
            assert_eq!(document(&mut world), dialog("x", kept));
        }
    }
}

/// Another server brings the same entity-tag between two looks at the rows.
#[test]
fn a_row_of_another_server_with_the_same_tag_stays() {
    use presence::ports::{Database, Value};
    let mut world = World::new(Setup { cache: PublicationCache::None, ..Setup::stored() });
    let body = dialog("x", "early");
    world.create("dialog", &body);
    let mut beside = world.host.database.clone().unwrap();
    let (mut is_first, other) = (true, dialog("y", "early"));
    world.host.database.as_ref().unwrap().before_statement(move |verb| {
        if verb == "begin" && std::mem::take(&mut is_first) {
            let row = [
                ("username", Value::text(b"alice")),
                ("domain", Value::text(b"h")),
                ("event", Value::text(b"dialog")),
                ("etag", Value::text(b"call-1")),
                ("sender", Value::text(b"")),
                ("body", Value::Blob(other.as_bytes().to_vec())),
                ("received_time", Value::Int(1)),
                ("priority", Value::Int(0)),
                ("ruid", Value::text(b"other")),
                ("expires", Value::Int(-1)),
            ];
            beside.insert("presentity", &row).unwrap();
        }
    });
    let given = SiblingPublication {
        package: DIALOG,
        user: b"alice",
        domain: b"h",
        entity_tag: b"call-1",
        sender: None,
        body: body.as_bytes(),
        expires: 60,
        for_ever: false,
        is_new: true,
    };
    let published = sibling_publication::publish(&world.server, &mut world.host, &given);
    assert_eq!(published, Ok(()));
    let ruids = world.host.database.as_ref().unwrap().column("presentity", "ruid");
    assert!(ruids.len() == 2 && ruids.contains(&"other".to_owned()), "{ruids:?}");
}
