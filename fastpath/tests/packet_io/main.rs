//! One contract for every [`fastpath::io::PacketIo`]. A new implementation writes a [`contract::Rig`] and one line of
//! [`contract::packet_io_contract`].

#[cfg(feature = "afxdp")]
mod afxdp;
mod contract;
mod mem;
mod pcap;
mod veth;
mod xsk;
