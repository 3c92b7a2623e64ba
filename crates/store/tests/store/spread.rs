//! One object on its way to many nodes.

use lyceum_store::{NodeStore, Object, ObjectRef, StoreClient};
use lyceum_wire::{BulkReceiver, BulkSender, Connection};

use crate::node::{Cluster, Node};
use crate::remote::empties;
use crate::{MIB, fill, is_whole, until};

/// The first answers of a server, see `node/peers.rs`.
const HERE: u8 = 1;
const WAIT: u8 = 4;

async fn object(client: &StoreClient, len: usize) -> Object {
    let mut writer = client.create(len).await.unwrap();
    fill(&mut writer);
    writer.seal().await.unwrap()
}

/// A peer's wish for all of an object, which insists on having it from there.
async fn fetch(connection: &Connection, reference: &ObjectRef) -> (BulkSender, BulkReceiver) {
    let ObjectRef { id, len, ticket, .. } = reference;
    let mut header = b"LYst\x02\x04".to_vec();
    for field in [id.origin, id.sequence, *ticket, *len, *len, 0] {
        header.extend(field.to_le_bytes());
    }
    connection.open_bulk(&header).await.unwrap()
}

async fn answer(receiver: &mut BulkReceiver) -> u8 {
    let mut answer = [0];
    receiver.read_exact(&mut answer).await.unwrap();
    answer[0]
}

/// What a peer's last word brings about, which comes behind the object.
async fn settles(node: &Node, right: fn(&NodeStore) -> bool) {
    let store = node.store.clone();
    let settled = tokio::task::spawn_blocking(move || until(&store.clone(), "settled", |_| right(&store)));
    settled.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_large_object_comes_over_several_connections() {
    let cluster = Cluster::new();
    let [n1, n2] = cluster.nodes();
    let (sender, receiver) = (n1.client(1), n2.client(2));
    for (len, lines) in [(15 * MIB, 1), (33 * MIB + 5, 2), (80 * MIB, 3)] {
        let object = object(&sender, len).await;
        let here = receiver.open(&object.share().await.unwrap()).await.unwrap();
        assert!(is_whole(&here) && here.len() == len);
        assert_eq!(n2.lines_to("n1"), lines);
    }
    settles(&n1, |store| store.uploaded() == 3).await;
    empties(&n1).await;
    empties(&n2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_node_sends_an_object_to_two_others_are_told_of_a_node_that_has_it() {
    let cluster = Cluster::new();
    let [n1, n2, n3] = cluster.nodes();
    let source = object(&n1.client(1), 3 * MIB).await;
    let reference = source.share().await.unwrap();
    let second = n2.client(2).open(&source.share().await.unwrap()).await.unwrap();

    // Two who take their time.
    let (_endpoint, slow) = cluster.stranger("n9", &n1).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = fetch(&slow, &reference).await;
        assert_eq!(answer(&mut stream.1).await, HERE);
        streams.push(stream);
    }
    let third = n3.client(3).open(&source.share().await.unwrap()).await.unwrap();
    assert!(is_whole(&third));
    // It came from the second, and its ticket was used where it was made: that of the strangers is left.
    settles(&n1, |store| store.usage().in_transit == 1).await;
    settles(&n2, |store| store.uploaded() == 1).await;
    assert_eq!(n1.store.uploaded(), 1);

    // Who insists waits, for longer than a store waits for a sign of life, and is told so.
    let mut waiting = fetch(&slow, &reference).await;
    for _ in 0..6 {
        assert_eq!(answer(&mut waiting.1).await, WAIT);
    }
    drop(streams);
    loop {
        match answer(&mut waiting.1).await {
            WAIT => {}
            other => break assert_eq!(other, HERE),
        }
    }
    drop((waiting, second, third, source));
    for node in [&n1, &n2, &n3] {
        empties(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_gone_or_out_of_reach_sends_the_fetch_back_to_where_the_reference_points() {
    let cluster = Cluster::new();
    for killed in [false, true] {
        let [n1, n2, n3] = cluster.nodes();
        let source = object(&n1.client(1), 3 * MIB).await;
        let reference = source.share().await.unwrap();
        drop(n2.client(2).open(&source.share().await.unwrap()).await.unwrap());
        empties(&n2).await;
        if killed {
            drop(n2);
        }
        let (_endpoint, slow) = cluster.stranger("n9", &n1).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = fetch(&slow, &reference).await;
            assert_eq!(answer(&mut stream.1).await, HERE);
            streams.push(stream);
        }
        let (client, to_open) = (n3.client(3), source.share().await.unwrap());
        let opening =
            tokio::spawn(async move { client.open(&to_open).await.map(|object| is_whole(&object)) });
        // It insists now, and waits for its turn.
        let mut waiting = fetch(&slow, &reference).await;
        for _ in 0..6 {
            assert_eq!(answer(&mut waiting.1).await, WAIT);
        }
        drop((streams, waiting));
        assert_eq!(opening.await.unwrap(), Ok(true));
        drop(source);
        empties(&n1).await;
        empties(&n3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_fetch_one_object_at_once_and_each_is_sent_it_once() {
    let cluster = Cluster::new();
    let nodes: [_; 7] = cluster.nodes();
    let source = object(&nodes[0].client(1), 5 * MIB).await;
    let mut opening = Vec::new();
    for node in &nodes[1..] {
        let (client, reference) = (node.client(2), source.share().await.unwrap());
        opening.push(tokio::spawn(async move { client.open(&reference).await }));
    }
    let mut objects = Vec::new();
    for opening in opening {
        objects.push(opening.await.unwrap().unwrap());
        assert!(objects.last().is_some_and(|object| is_whole(object)));
    }
    drop((source, objects));
    for node in &nodes {
        empties(node).await;
    }
    assert_eq!(nodes.iter().map(|node| node.store.uploaded()).sum::<u64>(), 6);
}
