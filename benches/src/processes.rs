//! CPU time of processes and losses of sockets, from /proc.

use std::fs;
use std::time::Duration;

/// CPU time of these processes with all their threads. What has ended counts
/// no more.
pub fn cpu(processes: &[i32]) -> Duration {
    let mut nanos = 0u64;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten()
        {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanos +=
                text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}

/// `(process, parent, process group)` of all processes.
fn all() -> Vec<(i32, i32, i32)> {
    let mut list = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ').skip(1).filter_map(|field| field.parse().ok());
        if let (Some(parent), Some(group)) = (fields.next(), fields.next()) {
            list.push((process, parent, group));
        }
    }
    list
}

/// The members of a process group.
pub fn group(leader: i32) -> Vec<i32> {
    all().into_iter().filter(|entry| entry.2 == leader).map(|entry| entry.0).collect()
}

/// A process and its children.
pub fn family(parent: i32) -> Vec<i32> {
    let children = all().into_iter().filter(|entry| entry.1 == parent).map(|entry| entry.0);
    std::iter::once(parent).chain(children).collect()
}

/// Datagrams that the system has dropped at the UDP sockets of these ports.
pub fn drops(ports: &[u16]) -> u64 {
    let text = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (_, port) = fields.nth(1)?.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            ports.contains(&port).then(|| fields.last()?.parse::<u64>().ok())?
        })
        .sum()
}
