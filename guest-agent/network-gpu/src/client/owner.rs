//! Whose a connection on loopback is. A port on loopback is open to every local user; a lease is not.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use vsgpu_core::System;

/// Bytes of the kernel's table: 150 for each connection of the machine.
const MAX_TABLE: usize = 64 << 20;
/// `TCP_ESTABLISHED`; later states belong to root, whoever's they were.
const ESTABLISHED: &str = "01";

/// Looks at the table, where the connection is not in it.
const LOOKS: u32 = 5;
/// Between two of them.
const AGAIN: Duration = Duration::from_millis(10);

/// The user at the other end of an accepted connection; `None` where the kernel does not name one. The table is
/// read in pieces while connections come and go: one that is not in it is looked for again.
pub(super) fn owner(system: &dyn System, from: SocketAddrV4, to: SocketAddrV4) -> Option<u32> {
    (0..LOOKS).find_map(|look| {
        if look > 0 {
            system.sleep(AGAIN);
        }
        let table = system.read("/proc/net/tcp", MAX_TABLE).ok()?;
        read(&String::from_utf8_lossy(&table), from, to)
    })
}

/// From the table's text. The connection's other end is the row whose local address is `from`.
fn read(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<u32> {
    let (from, to) = (shown(from), shown(to));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is = fields.next()? == from && fields.next()? == to && fields.next()? == ESTABLISHED;
        // Queues, timer, retransmits; then the user.
        is.then(|| fields.nth(3)?.parse().ok())?
    })
}

/// As the kernel prints it: the address as one word in the machine's own order of bytes.
fn shown(address: SocketAddrV4) -> String {
    let word = u32::from_ne_bytes(Ipv4Addr::octets(address.ip()));
    format!("{word:08X}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17395 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:D431 01 00000000:00000000 00:00000000 00000000   989        0 58401 1 0 20 4 30 10 -1
   2: 0100007F:D431 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 58400 1 0 20 4 30 10 -1
   3: 0100007F:D432 0100007F:9C40 06 00000000:00000000 03:00000ACC 00000000     0        0 0 3 0 1 3 0 10 -1
";

    #[test]
    fn the_other_end_names_its_user() {
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        assert_eq!(read(TABLE, at(0xd431), at(0x9c40)), Some(1000), "not 989, who is the daemon");
        assert_eq!(read(TABLE, at(0xd432), at(0x9c40)), None, "closed: root's, whoever's it was");
        assert_eq!(read(TABLE, at(0xd433), at(0x9c40)), None);
        assert_eq!(read("", at(1), at(2)), None);
    }

    /// The kernel's own table, of a connection of ours.
    #[test]
    fn this_machine_names_us() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("{e}"));
        let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap_or_else(|e| panic!("{e}")) else {
            panic!("IPv4 was asked for");
        };
        let _client = std::net::TcpStream::connect(to).unwrap_or_else(|e| panic!("{e}"));
        let (_accepted, from) = listener.accept().unwrap_or_else(|e| panic!("{e}"));
        let std::net::SocketAddr::V4(from) = from else { panic!("IPv4 was asked for") };
        let here = vsgpu_machine::Posix::new(None, "/".into());
        assert_eq!(owner(&here, from, to), Some(nix::unistd::Uid::current().as_raw()));
    }
}
