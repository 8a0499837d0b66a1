#!/usr/bin/env bash
# Customers of a telephone company and whether they left (wa_churn): 7,043 × 19 columns of numbers and categories,
# from Debian's package r-cran-modeldata into data/churn.h5. The package stores R objects, so R writes the CSV file;
# it is installed where it is missing. What has been fetched and imported before is skipped.
set -euo pipefail
# shellcheck source=launch/data/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

inside=usr/lib/R/site-library/modeldata/data/Rdata

install_r()
{
    command -v Rscript >/dev/null && return
    echo "churn.sh: installing r-base-core, to read the R package's data" >&2
    if ! as_root apt-get -qq update >&2 ||
        ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends r-base-core >&2
    then
        unavailable "needs R to read the data; install it first (as root: apt-get install r-base-core)"
    fi
}

if [ ! -f "$sources/churn.csv" ]; then
    install_r
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    base=/$inside
    if [ ! -f "$base.rdb" ]; then
        unpack r-cran-modeldata "$work"
        base=$work/$inside
    fi
    # lazyLoad reads the package's data without the package's dependencies.
    Rscript --vanilla -e 'path <- commandArgs(TRUE); data <- new.env()
        invisible(lazyLoad(path[1], envir = data, filter = function(name) name == "wa_churn"))
        write.csv(get("wa_churn", data), path[2], row.names = FALSE, na = "")' "$base" "$work/churn.csv" >&2 ||
        unavailable "the package r-cran-modeldata of this system has no wa_churn that R can read"
    keep "$work/churn.csv" churn.csv 7044
fi
import churn churn.csv --label churn --missing fill --validation 0.1 --test 0.2
