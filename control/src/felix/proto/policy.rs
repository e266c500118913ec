//! IP sets, policies, profiles and rules.

/// A set, with all its members.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpSetUpdate {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// `10.0.0.0/8`, or `10.0.0.1,tcp:80` in a set of ports.
    #[prost(string, repeated, tag = "2")]
    pub members: Vec<String>,
    /// An [`IpSetType`].
    #[prost(enumeration = "IpSetType", tag = "3")]
    pub kind: i32,
}

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum IpSetType {
    /// Addresses.
    Ip = 0,
    /// Addresses with protocol and port.
    IpAndPort = 1,
    /// Prefixes.
    Net = 2,
}

/// Members of a set that come and go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpSetDeltaUpdate {
    /// The set's name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// They come.
    #[prost(string, repeated, tag = "2")]
    pub added_members: Vec<String>,
    /// They go.
    #[prost(string, repeated, tag = "3")]
    pub removed_members: Vec<String>,
}

/// A set goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpSetRemove {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// A profile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActiveProfileUpdate {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<ProfileId>,
    /// Its rules.
    #[prost(message, optional, tag = "2")]
    pub profile: Option<Profile>,
}

/// A profile goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActiveProfileRemove {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<ProfileId>,
}

/// What names a profile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProfileId {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A profile's rules.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Profile {
    /// For packets to the endpoint.
    #[prost(message, repeated, tag = "1")]
    pub inbound_rules: Vec<Rule>,
    /// For packets from the endpoint.
    #[prost(message, repeated, tag = "2")]
    pub outbound_rules: Vec<Rule>,
}

/// A policy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActivePolicyUpdate {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<PolicyId>,
    /// Its rules.
    #[prost(message, optional, tag = "2")]
    pub policy: Option<Policy>,
}

/// A policy goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActivePolicyRemove {
    /// What names it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<PolicyId>,
}

/// What names a policy: tier and name up to v3.31; name, namespace and kind since v3.32.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PolicyId {
    /// Tier, up to v3.31.
    #[prost(string, tag = "1")]
    pub tier: String,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Namespace, since v3.32.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Kind, since v3.32.
    #[prost(string, tag = "4")]
    pub kind: String,
}

/// A policy's rules.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Policy {
    /// For packets to the endpoint.
    #[prost(message, repeated, tag = "1")]
    pub inbound_rules: Vec<Rule>,
    /// For packets from the endpoint.
    #[prost(message, repeated, tag = "2")]
    pub outbound_rules: Vec<Rule>,
    /// Namespace, of policies that have one.
    #[prost(string, tag = "5")]
    pub namespace: String,
    /// Tier, since v3.32.
    #[prost(string, tag = "8")]
    pub tier: String,
}

/// A rule: all that it says must hold of a packet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rule {
    /// `allow`, `deny`, `log`, `pass`, in any case.
    #[prost(string, tag = "1")]
    pub action: String,
    /// 0: any, 4 or 6.
    #[prost(int32, tag = "2")]
    pub ip_version: i32,
    /// The protocol.
    #[prost(message, optional, tag = "3")]
    pub protocol: Option<Protocol>,
    /// The source lies in one of these.
    #[prost(string, repeated, tag = "4")]
    pub src_net: Vec<String>,
    /// The source port is one of these.
    #[prost(message, repeated, tag = "5")]
    pub src_ports: Vec<PortRange>,
    /// The destination lies in one of these.
    #[prost(string, repeated, tag = "6")]
    pub dst_net: Vec<String>,
    /// The destination port is one of these.
    #[prost(message, repeated, tag = "7")]
    pub dst_ports: Vec<PortRange>,
    /// The ICMP message is this.
    #[prost(oneof = "Icmp", tags = "8, 9")]
    pub icmp: Option<Icmp>,
    /// The source is in each of these sets.
    #[prost(string, repeated, tag = "10")]
    pub src_ip_set_ids: Vec<String>,
    /// The destination is in each of these sets.
    #[prost(string, repeated, tag = "11")]
    pub dst_ip_set_ids: Vec<String>,
    /// Or the source port is in one of these sets.
    #[prost(string, repeated, tag = "12")]
    pub src_named_port_ip_set_ids: Vec<String>,
    /// Or the destination port is in one of these sets.
    #[prost(string, repeated, tag = "13")]
    pub dst_named_port_ip_set_ids: Vec<String>,
    /// Destination, protocol and port are in each of these sets.
    #[prost(string, repeated, tag = "15")]
    pub dst_ip_port_set_ids: Vec<String>,
    /// Not the protocol.
    #[prost(message, optional, tag = "102")]
    pub not_protocol: Option<Protocol>,
    /// The source lies in none of these.
    #[prost(string, repeated, tag = "103")]
    pub not_src_net: Vec<String>,
    /// The source port is none of these.
    #[prost(message, repeated, tag = "104")]
    pub not_src_ports: Vec<PortRange>,
    /// The destination lies in none of these.
    #[prost(string, repeated, tag = "105")]
    pub not_dst_net: Vec<String>,
    /// The destination port is none of these.
    #[prost(message, repeated, tag = "106")]
    pub not_dst_ports: Vec<PortRange>,
    /// The ICMP message is not this.
    #[prost(oneof = "NotIcmp", tags = "107, 108")]
    pub not_icmp: Option<NotIcmp>,
    /// The source is in none of these sets.
    #[prost(string, repeated, tag = "109")]
    pub not_src_ip_set_ids: Vec<String>,
    /// The destination is in none of these sets.
    #[prost(string, repeated, tag = "110")]
    pub not_dst_ip_set_ids: Vec<String>,
    /// The source port is in none of these sets.
    #[prost(string, repeated, tag = "112")]
    pub not_src_named_port_ip_set_ids: Vec<String>,
    /// The destination port is in none of these sets.
    #[prost(string, repeated, tag = "113")]
    pub not_dst_named_port_ip_set_ids: Vec<String>,
    /// Stays as long as the rule does.
    #[prost(string, tag = "201")]
    pub rule_id: String,
}

/// An ICMP message.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Icmp {
    /// Its type.
    #[prost(int32, tag = "8")]
    Type(i32),
    /// Type and code.
    #[prost(message, tag = "9")]
    TypeCode(IcmpTypeAndCode),
}

/// An ICMP message that is not meant.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum NotIcmp {
    /// Its type.
    #[prost(int32, tag = "107")]
    Type(i32),
    /// Type and code.
    #[prost(message, tag = "108")]
    TypeCode(IcmpTypeAndCode),
}

/// Type and code of an ICMP message.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct IcmpTypeAndCode {
    /// Type.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Code.
    #[prost(int32, tag = "2")]
    pub code: i32,
}

/// A protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Protocol {
    /// Which.
    #[prost(oneof = "NumberOrName", tags = "1, 2")]
    pub number_or_name: Option<NumberOrName>,
}

/// A protocol's number or name.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum NumberOrName {
    /// Its number.
    #[prost(int32, tag = "1")]
    Number(i32),
    /// Its name.
    #[prost(string, tag = "2")]
    Name(String),
}

/// Ports, first and last included.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PortRange {
    /// The first.
    #[prost(int32, tag = "1")]
    pub first: i32,
    /// The last.
    #[prost(int32, tag = "2")]
    pub last: i32,
}
