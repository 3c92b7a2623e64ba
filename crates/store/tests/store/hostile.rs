//! What comes over a socket can be anything; it harms nobody but its sender.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use lyceum_store::{NodeStore, StoreClient, StoreError, socket_pair};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::{MIB, block_on, options, until_empty};

fn attack(store: &NodeStore, holder: u64, packet: &[u8], with_descriptor: bool) -> OwnedFd {
    let (agents_end, socket) = socket_pair().unwrap();
    store.attach(holder, agents_end).unwrap();
    let descriptors = [std::io::stderr()];
    let descriptors = [descriptors[0].as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if with_descriptor {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    rustix::net::sendmsg(&socket, &[IoSlice::new(packet)], &mut control, SendFlags::empty()).unwrap();
    socket
}

#[test]
fn a_malformed_request_ends_that_attachment_with_a_reason_and_no_other() {
    let store = NodeStore::new(options("n1", 1, 4 * MIB)).unwrap();
    let (agents_end, processes_end) = socket_pair().unwrap();
    store.attach(1, agents_end).unwrap();
    let honest = StoreClient::attach(processes_end).unwrap();
    let object = block_on(honest.put(&vec![3; MIB])).unwrap();
    let packets: [(&[u8], bool); 6] = [
        (b"garbage", false),
        (&[0x80; 4096], false),
        (&[0xff; 4096], false),
        (&[1; 9000], false),
        (b"", false),
        (b"x", true),
    ];
    for (holder, (packet, with_descriptor)) in (2..).zip(packets) {
        let socket = attack(&store, holder, packet, with_descriptor);
        let client = StoreClient::attach(socket).unwrap();
        let ended = block_on(client.create(1)).unwrap_err();
        assert!(matches!(ended, StoreError::AgentLost { .. }), "{ended}");
        assert!(ended.to_string().contains("ended this attachment"), "{ended}");
    }
    assert!(object.iter().all(|&byte| byte == 3));
    block_on(honest.put(b"goes on")).unwrap();
    drop((object, honest));
    until_empty(&store);
}

#[test]
fn l2_a_process_that_floods_is_cut_off() {
    let store = NodeStore::new(options("n1", 1, 4 * MIB)).unwrap();
    let (agents_end, socket) = socket_pair().unwrap();
    store.attach(1, agents_end).unwrap();
    // Nonsense is refused at the first packet; what follows fills the socket's buffer and nothing else.
    let sent = (0..10_000).take_while(|_| {
        rustix::net::send(&socket, &[7; 1000], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
    });
    assert!(sent.count() < 10_000, "the agent took ten megabytes of nonsense");
    drop(socket);
    until_empty(&store);
}

#[test]
fn options_that_cannot_be_are_refused_with_the_value() {
    for (capacity, segment) in [(0, 0), (MIB, 2 * MIB), (4096, 100)] {
        let mut options = options("n1", 1, capacity);
        options.segment_bytes = segment as u64;
        let refused = NodeStore::new(options).unwrap_err().to_string();
        assert!(refused.contains(&capacity.to_string()), "{refused}");
    }
    let store = NodeStore::new(options("n1", 1, MIB)).unwrap();
    let (first, second) = (socket_pair().unwrap(), socket_pair().unwrap());
    store.attach(1, first.0).unwrap();
    assert!(store.attach(1, second.0).unwrap_err().to_string().contains("process 1 is attached"));
}
