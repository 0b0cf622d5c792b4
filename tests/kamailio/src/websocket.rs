//! As much of WebSocket (RFC 6455) as a SIP client needs: the handshake and frames
//! that hold one message each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A frame with text.
pub const TEXT: u8 = 1;
/// The peer closes.
pub const CLOSE: u8 = 8;
/// The peer asks whether we are there.
pub const PING: u8 = 9;
/// The answer to that.
pub const PONG: u8 = 10;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Makes a TCP connection one of WebSocket with SIP; panics if the server refuses.
pub fn handshake(stream: &mut TcpStream, server: SocketAddr) {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://{server}\r\n\
         Sec-WebSocket-Protocol: sip\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap_or_else(|error| panic!("handshake: {error}"));
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            other => panic!("handshake: {other:?} {}", String::from_utf8_lossy(&answer)),
        }
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "no WebSocket: {}",
        String::from_utf8_lossy(&answer)
    );
}

/// A frame as a client sends it.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes the first complete frame of a server off `bytes`: opcode and payload.
pub fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (opcode, short) = (bytes.first()? & 0x0f, usize::from(bytes.get(1)? & 0x7f));
    let (head, length) = match short {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        length => (2, length),
    };
    let payload = bytes.get(head..head + length)?.to_vec();
    bytes.drain(..head + length);
    Some((opcode, payload))
}
