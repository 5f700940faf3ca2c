from kvmatrix.cli import main

main()
