use super::message::{Attributes, messages};
use super::*;

#[test]
fn messages_are_read_as_they_were_written() {
    let mut frames = Frames::new();
    frames.push(0x11, EXCLUSIVE, |body| {
        body.fixed(&[1, 2, 3]);
        body.text(1, "kube-ipvs0");
        body.nest(2, |body| {
            body.be16(3, 443);
            body.u32(4, 7);
        });
        body.u8(5, 9);
    });
    frames.push(0x12, 0, |_| {});
    frames.stamp(0, 100, false);
    frames.stamp(1, 101, true);
    assert_eq!(frames.byte_length() % 4, 0);

    let read: Vec<_> = messages(frames.slice(0, 2)).collect();
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (0x11, REQUEST | EXCLUSIVE, 100));
    assert_eq!((read[1].kind, read[1].flags, read[1].sequence), (0x12, REQUEST | ACK, 101));
    assert!(read[1].payload.is_empty());
    let attributes = read[0].attributes(3);
    assert_eq!(attributes.get(1).and_then(Attribute::text), Some("kube-ipvs0"));
    let nested = attributes.get(2).expect("the nested one").nested();
    assert_eq!(nested.get(3).and_then(Attribute::be16), Some(443));
    assert_eq!(nested.get(4).and_then(Attribute::u32), Some(7));
    assert_eq!(attributes.get(5).and_then(Attribute::u8), Some(9));
}

#[test]
fn names_need_be_no_text() {
    // `IFLA_IFNAME` with a name that the kernel accepts and that is not valid UTF-8.
    let attribute = [8, 0, 3, 0, b'e', 0xff, b'0', 0];
    let attributes = Attributes::new(&attribute);
    let name = attributes.get(3).expect("a name");
    assert_eq!(name.text(), None);
    assert_eq!(name.name(), "e\u{fffd}0");
}

#[test]
fn malformed_attributes_end_the_reading() {
    // A length beyond the end, a length shorter than the header, a rest shorter than a header.
    for bytes in [&[9_u8, 0, 1, 0, 1][..], &[3, 0, 1, 0], &[0, 0, 0, 0, 0], &[4, 0]] {
        assert_eq!(Attributes::new(bytes).count(), 0, "{bytes:?}");
    }
    assert_eq!(messages(&[17, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
}

#[test]
fn datagrams_are_cut_by_count_and_by_bytes() {
    let mut frames = Frames::new();
    for _ in 0..10 {
        frames.push(1, 0, |body| body.fixed(&[0; 84]));
    }
    assert_eq!(frames.datagram_end(0, 4, 1 << 16), 4);
    assert_eq!(frames.datagram_end(8, 4, 1 << 16), 10);
    assert_eq!(frames.datagram_end(0, 256, 250), 2);
    assert_eq!(frames.datagram_end(0, 256, 50), 1, "a message longer than the limit goes alone");
    assert_eq!(frames.slice(8, 10).len(), 200);
}

/// The kernel's explanation follows the header of the request, or the whole request if the kernel does not cap it.
#[test]
fn refusals_carry_the_explanation() {
    for capped in [true, false] {
        let mut frames = Frames::new();
        frames.push(KIND_ERROR, ACK_ATTRIBUTES | if capped { CAPPED } else { 0 }, |body| {
            body.fixed(&(-17_i32).to_ne_bytes());
            let mut request = [0; 24];
            request[0..4].copy_from_slice(&24_u32.to_ne_bytes());
            body.fixed(&request[..if capped { 16 } else { 24 }]);
            body.text(EXPLANATION, "address already assigned");
        });
        let refusal = error_of(messages(frames.slice(0, 1)).next().expect("one message")).expect("an error");
        assert_eq!(refusal.errno, 17);
        assert_eq!(refusal.text, "File exists (os error 17): address already assigned");
    }
}

/// When memory runs out, the kernel objects to the message behind the one that begins the transaction.
#[test]
fn without_memory_the_whole_transaction_is_refused() {
    let because = |errno: Errno| Refusal::of(&errno.into());
    let refused = |refusals: &[(usize, Errno)]| {
        let refusals = refusals.iter().map(|(index, errno)| (*index, because(*errno))).collect();
        match refused(refusals) {
            Some(Commit::Refused { first, others }) => {
                let all = std::iter::once(first).chain(others);
                Some(all.map(|(index, refusal)| (index, refusal.errno)).collect::<Vec<_>>())
            }
            None => None,
            other => panic!("{other:?}"),
        }
    };
    let numbers = |refusals: &[(usize, Errno)]| {
        Some(refusals.iter().map(|(index, errno)| (*index, errno.raw_os_error())).collect::<Vec<_>>())
    };
    assert_eq!(refused(&[]), None);
    assert_eq!(refused(&[(1, Errno::NOMEM)]), numbers(&[(0, Errno::NOMEM)]));
    // Older kernels name the message for which memory ran out, and go on.
    for refusals in [
        &[(0, Errno::PERM)][..],
        &[(1, Errno::EXIST), (3, Errno::NOENT)],
        &[(2, Errno::NOMEM), (3, Errno::EXIST)],
    ] {
        assert_eq!(refused(refusals), numbers(refusals));
    }
}

/// Every user on every Linux can use `RTM_GETLINK` and has the loopback device.
#[test]
fn dumps_and_questions_on_the_running_kernel() {
    const GET_LINK: u16 = 18;
    const NAME: u16 = 3;
    let name = |message: Message<'_>| {
        Ok(message.attributes(16).get(NAME).and_then(Attribute::text).map(String::from))
    };
    let mut socket = Socket::open(Protocol::Route).expect("a netlink socket");

    let links = socket.dump(GET_LINK, |body| body.fixed(&[0; 16]), name).expect("the links");
    assert!(links.items.iter().any(|name| name == "lo"), "{:?}", links.items);
    assert!(links.datagrams >= 1);

    let ask = |name: &'static str| {
        move |body: &mut Body<'_>| {
            body.fixed(&[0; 16]);
            body.text(NAME, name);
        }
    };
    assert_eq!(socket.get(GET_LINK, ask("lo"), name).expect("lo").as_deref(), Some("lo"));
    let error = socket.get(GET_LINK, ask("no-such-link"), name).expect_err("it does not exist");
    assert_eq!(error.raw_os_error(), Some(19), "ENODEV");
}

/// After a decoder error, the rest of the dump must not remain in the socket.
#[test]
fn a_dump_that_cannot_be_decoded_leaves_the_socket_usable() {
    const GET_LINK: u16 = 18;
    let mut socket = Socket::open(Protocol::Route).expect("a netlink socket");
    let failed =
        socket.dump(GET_LINK, |body| body.fixed(&[0; 16]), |_| Err::<Option<()>, _>(io::Error::other("no")));
    assert!(failed.is_err());
    let links = socket.dump(GET_LINK, |body| body.fixed(&[0; 16]), |_| Ok(Some(()))).expect("the links");
    assert!(!links.items.is_empty());
}

#[test]
fn an_answer_in_many_datagrams_is_believed_when_it_is_repeated() {
    let run = |answers: &[(&[u16], usize)]| {
        let mut answers =
            answers.iter().map(|(items, datagrams)| Dump { items: items.to_vec(), datagrams: *datagrams });
        let result = settled(|| Ok(answers.next().expect("no more answers were needed")), PartialEq::eq);
        (result.ok(), answers.count())
    };
    assert_eq!(run(&[(&[1, 2], 1), (&[3], 1)]), (Some(vec![1, 2]), 1));
    assert_eq!(run(&[(&[1, 3], 2), (&[2, 3], 2), (&[2, 3], 2)]), (Some(vec![2, 3]), 0));
    assert_eq!(run(&[(&[1, 2], 2), (&[], 1)]), (Some(vec![]), 0));
    let restless: Vec<(&[u16], usize)> = [(&[1][..], 2), (&[2][..], 2)].repeat(DUMP_ATTEMPTS / 2);
    assert_eq!(run(&restless), (None, 0));
}
