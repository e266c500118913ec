//! `caracal services [NAME|IP]`: the services that pods of this node reach, and what is behind them.

use super::table::{Align, Table};
use super::{Cli, Exit, Output, ask, output};
use crate::api::report::{ServicePort, Services};
use crate::api::{Client, ClientError, MAX_PAGE, Method, ServicesParams};
use crate::words::{counted, number};

/// Arguments of `caracal services`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this one: its address, `namespace/name`, or its name.
    #[arg(value_name = "NAME|IP")]
    only: Option<String>,
    /// At most as many lines; 0: all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

pub(super) fn run(args: &Args, cli: &Cli) -> Exit {
    let mut client = match ask::connect(cli) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let limit = if args.limit == 0 {
        usize::MAX
    } else {
        args.limit
    };
    let services = match fetch(&mut client, args.only.as_ref(), limit) {
        Ok(services) => services,
        Err(error) => return ask::complain(&error),
    };
    if let Some(only) = args.only.as_ref().filter(|_| services.total == 0) {
        output::complain(&format!(
            "no service is called so, or has this address: {only}"
        ));
        return Exit::Failure;
    }
    let text = match cli.output {
        Output::Json => ask::to_json("caracal.services/v1", &services),
        Output::Table => render(&services, false),
        Output::Wide => render(&services, true),
    };
    output::print(&text, Exit::Ok)
}

/// Page by page, so that the daemon never stops for long.
fn fetch(
    client: &mut Client,
    only: Option<&String>,
    limit: usize,
) -> Result<Services, ClientError> {
    let mut all = Services {
        total: 0,
        services: Vec::new(),
        next: Some(0),
    };
    while let Some(offset) = all.next.filter(|_| all.services.len() < limit) {
        let params = ServicesParams {
            only: only.cloned(),
            offset,
            limit: Some((limit - all.services.len()).min(MAX_PAGE)),
        };
        let page: Services = client.call(Method::Services(params))?;
        all.total = page.total;
        all.next = page.next;
        all.services.extend(page.services);
    }
    Ok(all)
}

fn render(services: &Services, is_wide: bool) -> String {
    use Align::Left;
    let mut columns = vec![
        ("NAMESPACE", Left),
        ("NAME", Left),
        ("ADDRESS", Left),
        ("PORT", Left),
        ("BACKENDS", Left),
    ];
    if is_wide {
        columns.extend([("PORT-NAME", Left), ("AFFINITY", Left), ("ENDPOINTS", Left)]);
    }
    let mut table = Table::new(&columns);
    for service in &services.services {
        let mut line = vec![
            service.namespace.clone(),
            service.name.clone(),
            service.address.to_string(),
            format!("{}/{}", service.port, service.protocol),
            counted(service.endpoints.len() as u64, "endpoint"),
        ];
        if is_wide {
            line.extend(more(service));
        }
        table.push(&line);
    }
    let lacking = services.services.iter();
    let lacking = lacking.filter(|it| it.endpoints.is_empty()).count();
    let lacking = match lacking {
        0 => String::new(),
        count => format!(
            ", {} without endpoints (clients are refused)",
            number(count as u64)
        ),
    };
    let left = services.total.saturating_sub(services.services.len());
    let left = match left {
        0 => String::new(),
        left => format!(", {} more (--limit 0 shows all)", number(left as u64)),
    };
    let shown = counted(services.services.len() as u64, "port");
    format!("{table}{shown}{lacking}{left}\n")
}

/// The columns that only a wide table has.
fn more(service: &ServicePort) -> [String; 3] {
    let dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let affinity = if service.affinity { "ClientIP" } else { "-" };
    let endpoints: Vec<_> = service.endpoints.iter().map(ToString::to_string).collect();
    [
        dash(service.port_name.clone()),
        affinity.to_owned(),
        dash(endpoints.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    #[test]
    fn services_in_columns() {
        let services =
            serde_json::from_str(include_str!("../../tests/golden/services.json")).unwrap();
        let text = format!("{}\n{}", render(&services, false), render(&services, true));
        golden::check("services.txt", &text);
    }
}
