//! P13: one source floods the server, and what its neighbours see of it.

use crate::Fallible;
use crate::bench::{Context, Row, scattered};
use crate::load::{Operation, Phase, Tally};
use crate::samples::Goal;
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Watchers beside the flood.
const NEIGHBOURS: u32 = 500;
/// Their refreshes per second.
const RATE: f64 = 200.0;
/// Kamailio's default memory, in which transactions of a flood would matter.
const SHARED: u32 = 64;

/// PUBLISHes of one source, each new, whatever the answers.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Begins; `rate` per second. The source has an address of its own.
    fn begin(server: SocketAddr, rate: f64) -> Fallible<Flood> {
        let failed = |error| format!("cannot open a UDP socket on 127.0.0.2: {error}");
        let socket = UdpSocket::bind("127.0.0.2:0").map_err(failed)?;
        socket.connect(server).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ending, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            while !ending.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let due = (begin.elapsed().as_secs_f64() * rate) as u64;
                for number in number..due {
                    let _ = socket.send(request(port, number).as_bytes());
                }
                count.store(due.max(number), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(Flood { stop, sent, thread })
    }

    /// Ends; how many were sent.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.sent.load(Ordering::Relaxed)
    }
}

fn request(port: u16, number: u64) -> String {
    let body = "Messages-Waiting: yes\r\nVoice-Message: 1/0 (0/0)\r\n";
    format!(
        "PUBLISH sip:flood@bench.test SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.2:{port};branch=z9hG4bKf{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:flood@bench.test>;tag=f{number}\r\nTo: <sip:flood@bench.test>\r\n\
         Call-ID: flood{number}\r\nCSeq: 1 PUBLISH\r\nEvent: message-summary\r\nExpires: 3600\r\n\
         Content-Type: application/simple-message-summary\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Replies with a 5xx, and requests without a reply.
fn failed(tally: &Tally) -> u64 {
    let errors = tally.statuses.range(500..600).map(|(_, count)| count).sum::<u64>();
    errors + tally.timeouts
}

/// P13.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    let seconds = context.size(15.0, 5.0);
    let mut bench = context.start("flood", |mut setup, _| {
        (setup.shared, setup.limits_requests) = (SHARED, true);
        setup
    })?;
    let (watchers, _) = bench.subscribe(NEIGHBOURS, 60.0, |number| 100_000 + number);
    let (sources, _) = bench.publish(200_000..200_000 + NEIGHBOURS);
    bench.load.idle(6.0);

    let busy = Phase::new("saturation").window(64).stop_after(3.0).limit(10.0);
    let tally = bench.load.run(&busy, scattered(sources).map(Operation::Publish));
    let saturation = tally.done as f64 / tally.wall.as_secs_f64();
    let row = Row::new("PUBLISHes at saturation", "1/s");
    context.record(row, Some(saturation), tally.complaints(), json!(null));
    // tm gives back what that has taken.
    bench.load.idle(8.0);

    let neighbours = Phase::new("neighbours").rate(RATE).stop_after(seconds).limit(seconds + 40.0);
    let refresh = || scattered(watchers.clone()).map(Operation::Refresh);
    let mut idle = bench.load.run(&neighbours, refresh());
    let idle = idle.reply.quantile(0.99);
    context.record(Row::new("neighbours' p99, idle", "ms"), Some(idle), "", json!(null));
    let mut unserved = 0;
    for (name, times) in [("half saturation", 0.5), ("saturation", 1.0), ("twice saturation", 2.0)]
    {
        let flood = Flood::begin(bench.server.address(), times * saturation)?;
        let mut during = bench.load.run(&neighbours, refresh());
        let sent = flood.end();
        unserved += failed(&during);
        let p99 = during.reply.quantile(0.99);
        let note = format!("{sent} requests of the flood in {seconds} s; {}", during.complaints());
        let row = Row::new(format!("neighbours' p99, flood at {name}"), "ms");
        context.record(row, Some(p99), note, json!({ "during": during.json() }));
        let row = Row::new(format!("flood at {name} over idle"), "×").goal(Goal::AtMost(1.5));
        context.record(row, Some(p99 / idle), "", json!(null));
        bench.load.idle(2.0);
    }
    let row = Row::new("neighbours refused with 5xx, or unanswered", "").goal(Goal::AtMost(0.0));
    context.record(row, Some(unserved as f64), "", json!(null));
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}
