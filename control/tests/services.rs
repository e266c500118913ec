//! Kubernetes services: from files to what a node does about them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::config::{Cluster, Loader, Source, compute, load_sources};
use control::desired;

const NODES: &str = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n\
                     ---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node2}\nspec: {bgp: {ipv4Address: 192.0.2.2/24}}\n";

/// The services of node1 by these texts, of which nothing is to be said.
fn services_of(texts: &[&str]) -> Arc<Vec<desired::Service>> {
    let texts = texts.iter().chain([&NODES]).enumerate();
    let sources: Vec<_> = texts
        .map(|(at, text)| Source::new(format!("{at}.yaml"), *text))
        .collect();
    let cluster = load_sources(&sources).unwrap_or_else(|it| panic!("{}", it.render(false)));
    assert_eq!(cluster.base.remarks.render(false), "");
    on_node1(&cluster)
}

fn on_node1(cluster: &Cluster) -> Arc<Vec<desired::Service>> {
    compute(cluster, "node1").expect("a node").services
}

/// `namespace/name addresses protocol/port = backends`, a line for each port.
fn told(services: &[desired::Service]) -> Vec<String> {
    let mut lines = Vec::new();
    for service in services {
        let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
        for port in &service.ports {
            let backends: Vec<_> = port.backends.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "{}/{} {} {}/{} = {}",
                service.namespace,
                service.name,
                addresses.join(" "),
                port.protocol,
                port.port,
                backends.join(" "),
            ));
        }
    }
    lines
}

#[test]
fn what_kubectl_prints_is_read_as_it_is() {
    let services = services_of(&[include_str!("services/kubectl.yaml")]);
    let dns = "kube-system/kube-dns 10.96.0.10 fd00:96::a";
    let expected = [
        "default/kubernetes 10.96.0.1 6/443 = 192.0.2.1:6443".to_owned(),
        format!("{dns} 6/53 = 10.244.1.2:53 10.244.2.2:53"),
        format!("{dns} 6/9153 = 10.244.1.2:9153 10.244.2.2:9153"),
        format!("{dns} 17/53 = 10.244.1.2:53 10.244.2.2:53 [fd00:244:1::2]:53"),
        "prod/web 10.96.7.7 6/80 = 10.244.1.3:8080".to_owned(),
        "prod/web 192.0.2.200 198.51.100.7 6/80 = 10.244.1.3:8080 10.244.2.3:8080".to_owned(),
    ];
    assert_eq!(told(&services), expected);
    let affinity: Vec<bool> = services.iter().map(|it| it.affinity).collect();
    assert_eq!(affinity, [false, false, true, true]);
    assert_eq!(services[3].own_addresses, [] as [std::net::IpAddr; 0]);
}

#[test]
fn lists_of_one_kind_are_read_too() {
    let services = "{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}]}";
    let slices = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, items: [\
         {metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}, addressType: IPv4, endpoints: [{addresses: [10.244.1.2]}], ports: [{port: 8080}]}]}";
    let found = services_of(&[services, slices]);
    assert_eq!(told(&found), ["default/a 10.96.0.1 6/80 = 10.244.1.2:8080"]);
}

/// One endpoint of each kind of conditions, and which of them counts.
#[test]
fn what_is_not_said_of_an_endpoint_is_as_kubernetes_has_it() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let slice = |conditions: &[&str]| {
        let endpoints: Vec<String> = (1..)
            .zip(conditions)
            .map(|(at, it)| format!("{{addresses: [10.244.1.{at}], conditions: {it}}}"))
            .collect();
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}, \
             addressType: IPv4, endpoints: [{}], ports: [{{port: 8080}}, {{name: all}}]}}",
            endpoints.join(", ")
        )
    };
    for (conditions, backends) in [
        (
            &["null", "{}", "{ready: null}"][..],
            "10.244.1.1:8080 10.244.1.2:8080 10.244.1.3:8080",
        ),
        (&["{ready: false}", "{ready: true}"], "10.244.1.2:8080"),
        // As kube-proxy has it, who is not said not to serve does.
        (&["{ready: false, terminating: true}"], "10.244.1.1:8080"),
        (&["{ready: false, serving: false, terminating: true}"], ""),
        (
            &["{ready: false, serving: true, terminating: true}"],
            "10.244.1.1:8080",
        ),
        (&["{ready: false, serving: true, terminating: null}"], ""),
    ] {
        let found = services_of(&[service, &slice(conditions)]);
        let expected = format!("default/a 10.96.0.1 6/80 = {backends}");
        assert_eq!(told(&found), [expected], "{conditions:?}");
    }
}

/// A directory that goes with the test.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let name = format!("caracal-services-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn services_that_did_not_change_are_not_worked_out_again() {
    let temp = Temp::new("kept");
    let kubectl = fs::read_to_string(Path::new("tests/services/kubectl.yaml")).unwrap();
    temp.write("nodes.yaml", NODES);
    temp.write("services.yaml", &kubectl);
    let mut loader = Loader::new(std::slice::from_ref(&temp.0));
    let first = on_node1(&loader.load().unwrap());
    assert_eq!(first.len(), 4);

    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: none}\nspec: {types: [Ingress]}\n";
    temp.write("policy.yaml", policy);
    let names = ["policy.yaml".into()].into();
    let cluster = loader.load_changed(&names).unwrap();
    assert!(Arc::ptr_eq(&first, &on_node1(&cluster)));
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.244.0.0/16}\n";
    temp.write("pool.yaml", pool);
    let cluster = loader.load().unwrap();
    assert_eq!(cluster.base.pools.len(), 1);
    assert!(Arc::ptr_eq(&first, &on_node1(&cluster)));

    temp.write(
        "services.yaml",
        &kubectl.replace("- 10.244.1.3\n", "- 10.244.1.33\n"),
    );
    let names = ["services.yaml".into()].into();
    let changed = on_node1(&loader.load_changed(&names).unwrap());
    assert_eq!(
        told(&changed)[4],
        "prod/web 10.96.7.7 6/80 = 10.244.1.33:8080"
    );
    // What is refused leaves nothing behind.
    temp.write("services.yaml", "kind: Service\n");
    loader.load_changed(&names).unwrap_err();
    temp.write("services.yaml", &kubectl);
    assert_eq!(on_node1(&loader.load_changed(&names).unwrap()), first);
}
