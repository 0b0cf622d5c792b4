//! Shows what a presence server does: a watcher subscribes, a phone publishes,
//! the watcher is notified. Prints every SIP message.
//!
//! ```text
//! show ADDRESS:PORT
//! ```
//!
//! `scripts/run` starts it on a Kamailio of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use presence_kamailio_tests::agents::NOTIFY_TIMEOUT;
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::trace::Trace;

fn main() -> ExitCode {
    let Some(server) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: show ADDRESS:PORT of a running Kamailio");
        return ExitCode::from(2);
    };
    match show(server) {
        Ok(()) => {
            println!("Done: the watcher saw alice come online and go.");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("FAILED: {what}");
            ExitCode::FAILURE
        }
    }
}

fn show(server: SocketAddr) -> Result<(), String> {
    let trace = Trace::new();
    let mut phone = Publisher::with(server, trace.clone(), "alice");
    let mut watcher = Watcher::on(Endpoint::udp(server, trace, "watcher"), "alice").named("bob");

    step("1. bob subscribes to alice's presence");
    let request = watcher.message();
    print("bob -> server", &request);
    let reply = watcher.send(&request);
    print("server -> bob", &reply);
    expect(reply.status() == Some(200), "the SUBSCRIBE was not answered with 200")?;

    step("2. bob gets the present state: nothing is known of alice");
    notified(&watcher, 1)?;

    step("3. alice's phone publishes that she is available");
    let body = bodies::pidf("alice", "phone", "open", "At my desk");
    let request = phone.message(Some(&body));
    print("alice -> server", &request);
    let reply = phone.send(&request);
    print("server -> alice", &reply);
    expect(reply.status() == Some(200), "the PUBLISH was not answered with 200")?;
    expect(phone.etag.is_some(), "the 200 to the PUBLISH has no SIP-ETag")?;

    step("4. bob is told");
    let told = notified(&watcher, 2)?;
    expect(told.body().contains("At my desk"), "the NOTIFY does not have what was published")?;

    step("5. alice's phone withdraws its state with the entity-tag; bob is told");
    expect(phone.try_remove().status() == Some(200), "the last PUBLISH was not answered with 200")?;
    let told = notified(&watcher, 3)?;
    expect(!told.body().contains("open"), "alice is still shown as available")?;

    watcher.answer(Answer::Code(200));
    let reply = watcher.try_subscribe(0);
    expect(reply.status() == Some(200), "the unsubscribe was not answered with 200")?;
    expect(notify(&watcher, 4).is_some(), "no final NOTIFY")
}

/// Waits for the NOTIFY of this number and prints it.
fn notified(watcher: &Watcher, number: usize) -> Result<Notify, String> {
    let notify = notify(watcher, number)
        .ok_or_else(|| format!("NOTIFY {number} did not come within {NOTIFY_TIMEOUT:?}"))?;
    print("server -> bob", &notify.message);
    Ok(notify)
}

fn notify(watcher: &Watcher, number: usize) -> Option<Notify> {
    eventually(NOTIFY_TIMEOUT, || watcher.notifies().into_iter().nth(number - 1))
}

fn step(title: &str) {
    println!("{title}");
    println!("{}\n", "-".repeat(title.len()));
}

fn print(who: &str, message: &Message) {
    println!("  {who}");
    for line in String::from_utf8_lossy(&message.to_bytes()).trim_end().lines() {
        println!("{}", format!("    {line}").trim_end());
    }
    println!();
}

fn expect(fine: bool, otherwise: &str) -> Result<(), String> {
    if fine { Ok(()) } else { Err(otherwise.to_owned()) }
}
