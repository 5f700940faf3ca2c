from kvload.cli import main

main()
